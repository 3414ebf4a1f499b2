"""Groups of coupled channels: which layers they hold, and that removing channels equals silencing them."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from coupled import PRUNABLE, Concat, Depthwise, Flatten, Grouped, Residual, Sequence, Shuffle, images, settled
from torch import nn

from edgekd.errors import UserError
from edgekd.pruning.edits import replay
from edgekd.pruning.groups import Group, find, kept_sides


def by_name(network: nn.Module) -> dict[str, Group]:
    return {group.name: group for group in find(network, images(2)).prunable}


def sides(group: Group) -> set[tuple[str, str]]:
    return {(m.name, m.side) for m in group.members}


def silence(network: nn.Module, group: Group, channels: list[int]) -> nn.Module:
    """The same network, blind to some channels: the weights that read them are zero."""
    blind = copy.deepcopy(network)
    with torch.no_grad():
        for member in group.consumers:
            weight = blind.get_submodule(member.name).weight
            for position in [p for c in channels for p in member.positions[c]]:
                weight.select(member.axis, position).zero_()
    return blind


def test_a_residual_sum_couples_every_layer_of_its_stream() -> None:
    groups = by_name(settled(Residual()))
    assert sides(groups["stem.0"]) == {
        ("stem.0", "out"), ("stem.1", "out"), ("inner.0", "in"),
        ("outer.0", "out"), ("outer.1", "out"), ("head", "in"),
    }  # fmt: skip
    assert sides(groups["inner.0"]) == {("inner.0", "out"), ("inner.1", "out"), ("outer.0", "in")}
    assert [m.name for m in groups["stem.0"].producers] == ["stem.0", "outer.0"]
    assert [m.name for m in groups["stem.0"].norms] == ["stem.1", "outer.1"]
    assert [m.name for m in groups["stem.0"].consumers] == ["inner.0", "head"]


def test_a_depthwise_layer_and_a_gate_follow_the_channels_that_they_scale() -> None:
    groups = by_name(settled(Depthwise()))
    assert set(groups) == {"expand.0", "project.0", "squeeze"}
    expected = {("expand.0", "out"), ("depthwise.0", "out"), ("excite", "out"), ("squeeze", "in"), ("project.0", "in")}
    assert expected < sides(groups["expand.0"])
    assert sides(groups["squeeze"]) == {("squeeze", "out"), ("excite", "in")}


def test_a_concatenation_shifts_channels_and_a_sum_splits_them() -> None:
    groups = by_name(settled(Concat()))
    (joint,) = (m for m in groups["right.0"].members if (m.name, m.side) == ("joint.0", "out"))
    assert joint.positions == ((4,), (5,), (6,), (7,), (8,), (9,))
    (joint,) = (m for m in groups["left.0"].members if (m.name, m.side) == ("joint.0", "out"))
    assert joint.positions == ((0,), (1,), (2,), (3,))
    assert "joint.0" not in groups


def test_a_flatten_spreads_a_channel_over_its_pixels() -> None:
    (hidden,) = by_name(settled(Flatten()))["stem.0"].consumers
    assert hidden.name == "hidden"
    assert hidden.positions[2] == tuple(range(72, 108))


def test_inputs_and_outputs_are_never_pruned_and_each_group_left_whole_says_why() -> None:
    found = find(settled(Grouped()), images(2))
    assert [group.name for group in found.prunable] == ["hidden", "second"], "a layer norm and a parameter go along"
    reasons = {
        "same": "does not run without",
        "wide": '"grouped" is a grouped convolution',
        "grouped": '"grouped" is a grouped convolution',
        "head": "its channels are the network's outputs",
    }
    assert set(found.whole) == set(reasons)
    for name, reason in reasons.items():
        assert reason in found.whole[name]
    assert find(settled(Sequence()), images(2)).whole == {"second": "its channels are the network's outputs"}


def test_a_shuffle_that_the_graph_does_not_understand_is_found_out() -> None:
    found = find(settled(Shuffle()), images(2))
    assert [group.name for group in found.prunable] == ["second.0"]
    assert found.whole["first.0"] == "an operation mixes its channels, so that removing one changes the others"


def test_an_unused_layer_is_left_whole() -> None:
    network = Residual()
    network.spare = nn.Conv2d(3, 3, 1)
    assert find(settled(network), images(2)).whole["spare"] == "the forward pass does not run through it"


def test_a_network_that_fails_is_an_error_of_the_user() -> None:
    with pytest.raises(UserError, match="cannot be followed: RuntimeError"):
        find(Residual(), torch.zeros(2, 5, 6, 6))


def test_finding_groups_changes_nothing() -> None:
    network = settled(Depthwise())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    by_name(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("kind", PRUNABLE)
def test_removing_channels_equals_silencing_them(kind: type[nn.Module]) -> None:
    network, draw = settled(kind()), random.Random(0)
    groups = by_name(network)
    assert groups
    for group in groups.values():
        for _ in range(3):
            gone = draw.sample(range(group.channels), draw.randint(1, group.channels - 1))
            removed = copy.deepcopy(network)
            kept = [c for c in range(group.channels) if c not in gone]
            replay(removed, {"edit": "prune", "kept": kept_sides([group], {group.name: kept})})
            with torch.no_grad():
                expected, found = silence(network, group, gone)(images()), removed(images())
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_channel_without_bias_may_be_silenced_where_it_is_made_instead() -> None:
    """conv → ReLU → conv without bias or norm: a zero filter gives a zero channel."""
    network = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten())
    settled(network)
    removed, zeroed = copy.deepcopy(network), copy.deepcopy(network)
    replay(removed, {"edit": "prune", "kept": {"0": {"out": [0, 2, 5]}, "2": {"in": [0, 2, 5]}}})
    with torch.no_grad():
        zeroed[0].weight[[1, 3, 4]] = 0.0
        torch.testing.assert_close(removed(images()), zeroed(images()), rtol=1e-5, atol=1e-5)


def test_totals_follow_the_channel_map_to_hand_worked_numbers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([3.0, -4.0]).view(2, 1, 1, 1))
        network[2].weight.copy_(torch.arange(8.0).view(1, 8))
    (group,) = find(network.eval(), torch.rand(2, 1, 2, 2)).prunable
    assert group.total(group.producers, torch.abs).tolist() == [3.0, 4.0]
    assert group.total(group.consumers, torch.abs).tolist() == [0.0 + 1 + 2 + 3, 4.0 + 5 + 6 + 7]
