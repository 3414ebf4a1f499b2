"""Which losses to distil with: what a search over them may propose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekd import registry
from edgekd.errors import UserError
from edgekd.search.budget import LossBudget
from edgekd.toml import inline
from edgekd.training.features import Shapes, deepest, pair, shapes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekd.teacher import Teacher

NONE = "none"
PLACES = 3
"""Modules of the student, from shallow to deep, whose features may be compared."""
WEIGHTS = (0.1, 0.3, 0.5, 1.0, 2.0)
TEMPERATURES = (1.0, 2.0, 4.0, 8.0)

Table = dict[str, Any]
"""One loss as a recipe writes it: {"use": "kl", "temperature": 4.0, "weight": 0.5}."""


def propose(trial: Any, budget: LossBudget, pairs: list[tuple[str, str]]) -> list[Table]:
    """Losses for an Optuna trial: labels, logits and features, each with its weight, each may be left out but one.

    Temperature where the loss has one, and for features one of `pairs` (student's module, teacher's). The search over loss,
    pairing and weights is that of AutoDistiller: He et al. 2021, "Distiller", arXiv 2109.11105, section 4.
    """
    found: list[Table] = []
    if name := _one_of(trial, "labels", budget.of("labels")):
        found.append({"use": name, "weight": trial.suggest_categorical("labels weight", WEIGHTS)})
    if name := _one_of(trial, "logits", budget.of("logits")):
        weight = trial.suggest_categorical("logits weight", WEIGHTS)
        found.append({"use": name, **_tempered(trial, name), "weight": weight})
    if name := _one_of(trial, "features", budget.of("features", "branch") if pairs else []):
        place = trial.suggest_int("pair", 0, len(pairs) - 1)
        modules = dict(zip(("student", "teacher"), pairs[place], strict=True))
        known = registry.fields_of("losses", name)
        weight = float(f"{trial.suggest_float('features weight', 0.1, 10.0, log=True):.2g}")
        found.append({"use": name, **{k: v for k, v in modules.items() if k in known}, "weight": weight})
    if not found:
        found.append({"use": budget.among[0], "weight": 1.0})
    return found


def _one_of(trial: Any, kind: str, names: list[str]) -> str:
    """One of the names, or ""."""
    name = trial.suggest_categorical(kind, [NONE, *names]) if names else NONE
    return "" if name == NONE else str(name)


def _tempered(trial: Any, name: str) -> Table:
    known = "temperature" in registry.fields_of("losses", name)
    return {"temperature": trial.suggest_categorical("temperature", TEMPERATURES)} if known else {}


def usual(budget: LossBudget) -> dict[str, Any]:
    """What to try first: cross entropy and KL in equal parts, as far as they are among the choices."""
    labels, logits = budget.of("labels"), budget.of("logits")
    found: dict[str, Any] = {}
    if labels:
        found |= {"labels": labels[0], "labels weight": 0.5}
    if logits:
        found |= {"logits": "kl" if "kl" in logits else logits[0], "logits weight": 0.5, "temperature": 4.0}
    return {**found, "features": NONE}


def pairs_of(network: nn.Module, teacher: Teacher, inputs: torch.Tensor) -> list[tuple[str, str]]:
    """Modules of student and teacher that may be compared: from shallow to deep, each with its like in the teacher.

    None for a teacher of which only the outputs are had.
    """
    try:
        theirs = teacher.shapes(inputs)
    except UserError:
        return []
    own = shapes(network, inputs, "student")
    found: list[tuple[str, str]] = []
    for name in [*_spread(own), deepest(own)]:
        try:
            one = pair(own, theirs, name)
        except UserError:
            continue
        if one not in found:
            found.append(one)
    return found


def _spread(own: Shapes) -> list[str]:
    """Up to `PLACES` of the modules that give maps or tokens, evenly from shallow to deep."""
    wide = [name for name, shape in own.items() if len(shape) > 2]
    return [wide[(index + 1) * len(wide) // (PLACES + 1)] for index in range(PLACES)] if wide else []


def said(losses: list[Table]) -> str:
    """Losses as a recipe writes them."""
    return ", ".join(map(inline, losses))
