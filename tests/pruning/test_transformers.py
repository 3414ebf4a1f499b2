"""Transformers that are narrowed for real: heads, feed-forward layers, the residual stream, whole branches."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from coupled import settled
from encoders import HEADS, WIDTH, Bert, Fused, Grouped, Torch, opened, tokens
from torch import nn

from edgekd.errors import UserError
from edgekd.pipeline.engines import write_program
from edgekd.pruning.branches import branches, least
from edgekd.pruning.edits import closed, replay
from edgekd.pruning.groups import cut, find
from edgekd.pruning.replaced import Attention, Nothing

MADE = {"torch": Torch, "before": partial(Torch, before=True), "bert": Bert, "fused": Fused}
SIGNATURE = {
    "inputs": [{"name": "ids", "shape": [None, 6], "dtype": "int64"}],
    "outputs": [{"name": "logits", "shape": [None, 3], "dtype": "float32"}],
}


def prune(network: nn.Module, **parts: Any) -> None:
    replay(network, {"edit": "prune", "kept": {}, **parts})


@pytest.mark.parametrize(
    ("name", "heads", "hidden", "stream"),
    [
        ("torch", "encoder.layers.{}.self_attn", "encoder.layers.{}.linear1", "words"),
        ("before", "encoder.layers.{}.self_attn", "encoder.layers.{}.linear1", "words"),
        ("bert", "layer.{}.attention.self", "layer.{}.intermediate", "words"),
        ("fused", "attention", "gate", "words"),
    ],
)
def test_heads_feed_forward_and_the_residual_stream_are_groups(name: str, heads: str, hidden: str, stream: str) -> None:
    network = opened(MADE[name]())
    found = find(network, tokens(2))
    groups = {group.name: group for group in found.prunable}
    layers = range(1 if name == "fused" else 2)
    for layer in layers:
        attention = groups[heads.format(layer)]
        assert (attention.channels, attention.consumers[0].positions[1]) == (HEADS, (2, 3))
        assert groups[hidden.format(layer)].channels == (10 if name == "fused" else 12)
    assert groups[stream].channels == WIDTH
    assert {m.name for m in groups[stream].layer_norms} == {
        n for n, m in network.named_modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm)
    }
    assert set(groups) == {stream, *(n.format(i) for n in (heads, hidden) for i in layers)} | (
        {"pooler"} if name == "bert" else set()
    )
    assert found.whole["head"] == "its channels are the network's outputs"
    able = branches(network, found.prunable, tokens(2))
    assert {branch.name for branch in able} == {n.format(i) for n in (heads, hidden) for i in layers}


def test_opened_attention_is_the_attention_that_it_was() -> None:
    """With masks of either kind, with weights and without, tokens first or batch first, other widths of key and value."""
    x, other = torch.randn(3, 5, 8), torch.randn(3, 7, 6)
    padding, causal = torch.zeros(3, 7, dtype=torch.bool), torch.triu(torch.full((5, 7), -torch.inf), 3)
    padding[:, -1] = True
    before = settled(nn.MultiheadAttention(8, 4, kdim=6, vdim=6, batch_first=True))
    for given in ({}, {"key_padding_mask": padding}, {"attn_mask": causal}, {"need_weights": False}):
        expected, found = before(x, other, other, **given), Attention(before)(x, other, other, **given)
        torch.testing.assert_close(found[0], expected[0])
        assert (found[1] is None) == (expected[1] is None)
        if found[1] is not None:
            torch.testing.assert_close(found[1], expected[1])
    first = settled(nn.MultiheadAttention(8, 2, bias=False))
    mask = torch.rand(5 * 2, 3, 3) > 0.8
    mask[:, :, 0] = False
    given = {"attn_mask": mask, "average_attn_weights": False}
    for found, expected in zip(Attention(first)(x, x, x, **given), first(x, x, x, **given), strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(UserError, match="needs a batch"):
        Attention(first)(x[0], x[0], x[0])
    assert closed(nn.ModuleDict({"a": nn.MultiheadAttention(8, 2, add_zero_attn=True), "b": first})) == ["b"]


def test_a_narrowed_bert_is_the_one_whose_weights_were_picked_by_hand() -> None:
    """Two of four heads, five of twelve channels, six of eight of the stream: a smaller Bert made as such, its weights copied."""
    network = opened(Bert())
    keep = {"words": [0, 1, 3, 4, 6, 7], "layer.0.attention.self": [1, 2], "layer.0.intermediate": [0, 2, 5, 7, 11]}
    keep["layer.1.attention.self"], keep["layer.1.intermediate"] = [0, 3], [1, 2, 3, 8, 9]
    rows = {0: [2, 3, 4, 5], 1: [0, 1, 6, 7]}
    small, d = Bert(width=6, heads=2, all_width=4, hidden=5), keep["words"]
    picked = {}
    for name, value in network.state_dict().items():
        layer = int(name.split(".")[1]) if name.startswith("layer.") else -1
        hidden = keep.get(f"layer.{layer}.intermediate")
        if ".self." in name:
            value = value[rows[layer]]
            value = value[:, d] if value.dim() > 1 else value
        elif "attention.output.dense.weight" in name:
            value = value[d][:, rows[layer]]
        elif "intermediate" in name:
            value = value[hidden][:, d] if value.dim() > 1 else value[hidden]
        elif name.endswith(f"{layer}.output.dense.weight"):
            value = value[d][:, hidden]
        elif name.startswith(("words", "places")) or name == "pooler.weight":
            value = value[:, d]
        elif not name.startswith(("head", "pooler")):
            value = value[d]
        picked[name] = value
    small.load_state_dict(picked)
    groups = find(network, tokens(2)).prunable
    edit = json.loads(json.dumps({"edit": "prune", **cut(groups, keep)}))
    assert edit["sizes"]["layer.1.attention.self"]["num_attention_heads"] == 2
    replay(network, edit)
    with torch.no_grad():
        torch.testing.assert_close(network(tokens()), small.eval()(tokens()))


@pytest.mark.parametrize("name", MADE)
def test_an_edit_replays_on_a_fresh_network_and_a_branch_that_is_gone_adds_nothing(name: str) -> None:
    network, fresh = settled(MADE[name]()), MADE[name]()
    whole = copy.deepcopy(network)
    names = closed(network)
    prune(network, opened=names)
    with torch.no_grad():
        torch.testing.assert_close(network(tokens()), whole(tokens()), rtol=1e-4, atol=1e-5)
    groups = find(network, tokens(2)).prunable
    able = branches(network, groups, tokens(2))
    gone = [able[0], able[-1]]  # an attention, and feed-forward layers
    keep = {g.name: list(range(0, g.channels, 2)) for g in groups if g.name not in [b.name for b in gone]}
    silent = copy.deepcopy(network)
    with torch.no_grad():
        for branch in gone:
            for value in silent.get_submodule(branch.last.name).parameters():
                value.zero_()
    removed = {part: outputs for branch in gone for part, outputs in branch.removed.items()}
    without = copy.deepcopy(network)
    prune(without, removed=removed)
    with torch.no_grad():
        torch.testing.assert_close(without(tokens()), silent(tokens()), rtol=1e-4, atol=1e-5)
    edit = json.loads(json.dumps({"edit": "prune", "opened": names, **cut(groups, keep, removed)}))
    replay(network, {"edit": "prune", **{k: v for k, v in edit.items() if k not in ("edit", "opened")}})
    replay(fresh, edit)
    fresh.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(tokens()), network(tokens()))
    assert not any(key.startswith(tuple(f"{part}." for part in removed)) for key in fresh.state_dict())
    norms = {part for part in removed if part.endswith(("norm1", "norm2"))}
    assert len(norms) == (2 if name in ("before", "fused") else 0), "a norm that nothing reads goes with its branch"
    assert sum(p.numel() for p in fresh.parameters()) < 0.5 * sum(p.numel() for p in whole.parameters())


def test_a_narrowed_encoder_runs_in_onnx_runtime_as_it_does_in_torch(tmp_path: Path) -> None:
    for name in ("torch", "bert"):
        network = opened(MADE[name]())
        groups = find(network, tokens(2)).prunable
        able = {branch.attention: branch for branch in branches(network, groups, tokens(2))}
        removed = {**able[True].removed, **able[False].removed}
        keep = {g.name: list(range(1, g.channels)) for g in groups if g.name not in {b.name for b in able.values()}}
        replay(network, {"edit": "prune", **cut(groups, keep, removed)})
        (out := tmp_path / name).mkdir()
        write_program(network, tokens(1), SIGNATURE, "float32", "affine", out)
        session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"ids": tokens(1).numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, network(tokens(1)).numpy(), rtol=1e-3, atol=1e-4)


def test_what_is_not_supported_is_said_with_its_name() -> None:
    network = settled(Grouped())
    found = find(network, tokens(2))
    assert "query, key and value are not of one width" in found.whole[""]
    assert "supported are" in found.whole[""]
    assert branches(network, found.prunable, tokens(2)) == (), "no sum adds anything"
    closed_ = settled(Torch())
    assert "cannot open" in find(closed_, tokens(2)).whole["encoder.layers.0.self_attn"]
    with pytest.raises(UserError, match="2 cannot go, of 0 residual branches"):
        least((), {}, 2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"opened": ["norm"]}, "a LayerNorm is no nn.MultiheadAttention"),
        ({"opened": ["encoder.layers.9.self_attn"]}, 'names the module "encoder.layers.9.self_attn"'),
        ({"sizes": {"head": {"weight": 1}}}, 'a Linear has no size "weight"'),
        ({"sizes": {"head": {"in_features": 99}}}, '"in_features" becomes 99, it is 8'),
        ({"sizes": {"head": {"training": 1}}}, 'a Linear has no size "training"'),
        ({"removed": {"spare": 0}}, 'names the module "spare"'),
        ({"removed": {"encoder.layers.0": 0, "encoder.layers.0.linear1": 0}}, "which is removed as well"),
        ({"removed": {"head": 99}}, "it cannot have had 99 outputs"),
        ({"kept": {"places": {"out": [0, 8]}}}, '"places": "out" keeps channel 8, there are 8'),
        ({"kept": {"places": {"in": [0]}}}, "a tensor by itself"),
        ({"kept": {"words": {"in": [0]}}}, 'a Embedding has no "in" channels'),
        ({"kept": {"norm": {"out": [1, 0]}}}, "not in ascending order"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_before_anything_changes(parts: dict[str, Any], message: str) -> None:
    network = settled(Torch())
    before = {name: value.shape for name, value in network.state_dict().items()}
    edit = {"opened": ["encoder.layers.0.self_attn"], **parts}
    with pytest.raises(UserError, match="prune edit") as caught:
        prune(network, **edit)
    assert message in caught.value.message
    assert {name: value.shape for name, value in network.state_dict().items()} == before


def test_nothing_gives_what_the_part_gave() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(x + Nothing()(torch.arange(3), x), x)
    first, *rest = Nothing(3)(x)
    assert (float(first), first.shape, rest) == (0.0, torch.Size([]), [None, None])
