"""Prune edits: what is kept, to the bit, and every way in which an edit can be wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from coupled import PRUNABLE, Residual, images, settled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekd.errors import UserError
from edgekd.pruning.edits import replay
from edgekd.pruning.groups import find, kept_sides


def prune(**kept: Any) -> dict[str, Any]:
    return {"edit": "prune", "kept": {name.replace("_", "."): sides for name, sides in kept.items()}}


def kept_of(size: int) -> st.SearchStrategy[list[int]]:
    return st.sets(st.integers(0, size - 1), min_size=1).map(sorted)


@pytest.mark.parametrize("kind", PRUNABLE)
def test_a_replay_on_a_fresh_network_gives_the_same_bits(kind: type[nn.Module]) -> None:
    """What an artefact does: the factory's network, narrowed twice, takes the pruned weights and computes the same."""
    pruned, fresh = settled(kind(), seed=1), kind()
    for share in (0.75, 0.7):
        groups = find(pruned, images(2)).prunable
        keep = {g.name: list(range(max(1, int(g.channels * share)))) for g in groups}
        edit = {"edit": "prune", "kept": kept_sides(groups, keep), "criterion": "magnitude", "ratio": 0.25}
        replay(pruned, edit)
        replay(fresh, edit)
    fresh.load_state_dict(pruned.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images()), pruned(images()))
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in kind().parameters())


@settings(max_examples=40, deadline=None)
@given(outs=kept_of(6), ins=kept_of(4), transposed=st.booleans(), bias=st.booleans())
def test_a_convolution_keeps_what_is_listed(outs: list[int], ins: list[int], transposed: bool, bias: bool) -> None:
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(4, 6, 3, bias=bias)
    x = torch.randn(2, 4, 5, 5)
    silent = torch.zeros_like(x)
    silent[:, ins] = x[:, ins]
    with torch.no_grad():
        expected = layer(silent)[:, outs]
        network = nn.Sequential(layer)
        replay(network, {"edit": "prune", "kept": {"0": {"out": outs, "in": ins}}})
        torch.testing.assert_close(network(x[:, ins]), expected, rtol=1e-4, atol=1e-5)
    assert (layer.out_channels, layer.in_channels) == (len(outs), len(ins))


@settings(max_examples=40, deadline=None)
@given(kept=kept_of(5), transposed=st.booleans())
def test_a_depthwise_convolution_keeps_the_same_channels_on_both_sides(kept: list[int], transposed: bool) -> None:
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(5, 5, 3, groups=5)
    x = torch.randn(2, 5, 4, 4)
    with torch.no_grad():
        expected = layer(x)[:, kept]
        network = nn.Sequential(layer)
        replay(network, {"edit": "prune", "kept": {"0": {"out": kept}}})
        torch.testing.assert_close(network(x[:, kept]), expected)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (len(kept),) * 3


@settings(max_examples=40, deadline=None)
@given(outs=kept_of(6), ins=kept_of(7))
def test_linear_batch_norm_and_prelu_keep_what_is_listed(outs: list[int], ins: list[int]) -> None:
    network = settled(nn.Sequential(nn.Linear(7, 6), nn.BatchNorm1d(6), nn.PReLU(6)))
    x = torch.randn(3, 7)
    silent = torch.zeros_like(x)
    silent[:, ins] = x[:, ins]
    with torch.no_grad():
        expected = network(silent)[:, outs]
        edit = prune(**{"0": {"out": outs, "in": ins}, "1": {"out": outs}, "2": {"out": outs}})
        replay(network, edit)
        torch.testing.assert_close(network(x[:, ins]), expected)
    assert network[1].num_features == len(outs)


def test_a_grouped_convolution_keeps_equally_many_channels_of_each_group() -> None:
    layer = nn.Conv2d(4, 6, 1, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0).view(6, 2, 1, 1))
    network = nn.Sequential(layer)
    replay(network, {"edit": "prune", "kept": {"0": {"out": [0, 2, 3, 4], "in": [1, 2]}}})
    assert layer.weight.flatten().tolist() == [
        1.0,
        5.0,
        6.0,
        8.0,
    ]  # rows 0, 2 read input 1 of group 0; rows 3, 4 input 0
    assert (layer.groups, layer.in_channels, layer.out_channels) == (2, 2, 4)


def test_a_second_edit_counts_in_the_network_that_it_finds() -> None:
    network = nn.Sequential(nn.Linear(1, 6, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.arange(6.0).view(6, 1))
    replay(network, {"edit": "prune", "kept": {"0": {"out": [1, 3, 4, 5]}}})
    replay(network, {"edit": "prune", "kept": {"0": {"out": [1, 3]}}})
    assert network[0].weight.flatten().tolist() == [3.0, 5.0]


def test_parameters_stay_trainable_or_frozen_as_they_were() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network[0].weight.requires_grad_(False)
    replay(network, {"edit": "prune", "kept": {"0": {"out": [0, 2]}, "1": {"out": [0, 2]}}})
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert network[1].num_batches_tracked.dim() == 0


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"stem.9": {"out": [0]}}, 'names the module "stem.9"'),
        ({"stem.0": {"out": [0, 8]}}, '"stem.0": "out" keeps channel 8, there are 8'),
        ({"stem.0": {"out": [-1, 0]}}, '"stem.0": "out" keeps channel -1'),
        ({"stem.0": {"out": []}}, '"stem.0": "out" keeps nothing'),
        ({"stem.0": {"out": [1, 0]}}, '"stem.0": "out" is not in ascending order'),
        ({"stem.0": {"out": [1, 1]}}, '"stem.0": "out" is not in ascending order'),
        ({"stem.1": {"in": [0]}}, 'a BatchNorm2d has no "in" channels'),
        ({"stem": {"out": [0]}}, 'a Sequential has no "out" channels'),
        ({"stem.0": {"out": [True]}}, "malformed: kept.stem.0.out.0"),
        ({"stem.0": {"out": "0"}}, "malformed: kept.stem.0.out"),
        ({"stem.0": {"weight": [0]}}, "malformed: kept.stem.0.weight"),
        (["stem.0"], "malformed: kept"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused_before_anything_changes(kept: Any, message: str) -> None:
    network = settled(Residual())
    before = copy.deepcopy(network.state_dict())
    fitting = {"inner.0": {"out": [0]}}
    edit = {"edit": "prune", "kept": {**fitting, **kept} if isinstance(kept, dict) else kept}
    with pytest.raises(UserError, match="prune edit") as caught:
        replay(network, edit)
    assert message in caught.value.message
    assert caught.value.hint
    assert all(value.shape == before[name].shape for name, value in network.state_dict().items())


def test_other_kinds_of_edits_and_lopsided_groups_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    for edit in ({"edit": "quantize"}, {"edit": "prune"}, {"edit": "prune", "kept": {}, "run": "me"}):
        with pytest.raises(UserError, match="malformed"):
            replay(network, edit)
    for sides in ({"out": [0, 1, 2]}, {"out": [0, 1], "in": [0, 1, 2, 3]}):
        with pytest.raises(UserError, match="its 2 groups would not stay equally wide"):
            replay(network, {"edit": "prune", "kept": {"0": sides}})
