"""The losses that benchmarks/distillation.py compares: one setting of each for the screen, and what is tried to tune the best."""

from __future__ import annotations

from typing import Any

from distillation_recipe import CE

from edgekd import registry

Losses = list[dict[str, Any]]
LEFT_OUT = {
    "attention_align": "the networks have no attention",
    "attention_relations": "the networks have no tokens",
    "class_attention": "the networks have no map for each class",
    "cosine_cached": "the outputs are no embeddings",
    "teacher_dropping": "there is one teacher",
    "teacher_routing": "there is one teacher",
}
SET: dict[str, dict[str, Any]] = {
    "attention_map": {"weight": 5.0},
    "crd": {"weight": 0.02, "negatives": 1024},
    "rkd": {"weight": 20.0},
}
"""What is not a loss's own default in the screen: weights of values far from one."""
LOSSES = {
    name: {"use": name, **SET.get(name, {})}
    for name in registry.names("losses")
    if name not in LEFT_OUT and name != "cross_entropy"
}
CONTROL = "permuted_dark"
"""No method but a control: the teacher's confidence without the likeness of classes."""
TEMPERATURES = (1.0, 2.0, 8.0)
SHARES = (0.3, 3.0)
"""Of the screen's weight."""
FAR, LESS = 2.0, (0.3, 0.1, 0.03)
"""A loss that lies so many points below cross-entropy is tried with less weight: it may only be too large for the learning rate."""


def screened(name: str) -> Losses:
    """A loss beside cross-entropy, as it is screened."""
    return [CE] if name == "cross_entropy" else [CE, LOSSES[name]]


def tuned(name: str) -> dict[str, Losses]:
    """Settings of a loss: what is told of each → the losses. Other weights, other temperatures, and without cross-entropy."""
    loss = LOSSES[name]
    weight = loss.get("weight", 1.0)
    found: dict[str, Losses] = {"as screened": [CE, loss]}
    for share in SHARES:
        found[f"weight {share * weight:g}"] = [CE, {**loss, "weight": share * weight}]
    if registry.constant("losses", name, "wants") in ("labels", "logits", "head"):
        found["alone"] = [loss]
    if "temperature" in registry.fields_of("losses", name):
        usual = registry.build(
            "losses", name, {k: v for k, v in loss.items() if k not in ("use", "weight")}
        ).temperature
        for temperature in TEMPERATURES:
            if temperature != usual:
                found[f"temperature {temperature:g}"] = [CE, {**loss, "temperature": temperature}]
    return found


def lighter(name: str) -> dict[str, Losses]:
    """As `tuned`, with less weight alone."""
    loss = LOSSES[name]
    weights = [share * loss.get("weight", 1.0) for share in LESS]
    return {"as screened": [CE, loss], **{f"weight {w:g}": [CE, {**loss, "weight": w}] for w in weights}}
