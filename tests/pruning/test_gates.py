"""Hard concrete gates, the size that they expect, the layers that they match: by hand, by counting, and against the narrowed net."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from encoders import Bert, Fused, Torch, opened, tokens
from torch import nn

from edgekd.errors import UserError
from edgekd.pruning.branches import Branch, branches
from edgekd.pruning.edits import replay
from edgekd.pruning.gates import Gates, chance, drawn, value
from edgekd.pruning.gating import gated
from edgekd.pruning.groups import Group, cut, find
from edgekd.pruning.lagrangian import Lagrangian, pull
from edgekd.pruning.matching import blocks, layerwise, match
from edgekd.pruning.size import Size


def test_a_gate_is_not_nought_as_often_as_its_chance_says() -> None:
    """P(z ≠ 0) at log α = 0 is σ(2/3 · ln 11) = 11^(2/3) / (1 + 11^(2/3)); its slope is P (1 − P)."""
    log_alpha = torch.tensor([0.0, -1.0, 2.0], requires_grad=True)
    found = chance(log_alpha)
    by_hand = 11 ** (2 / 3) / (1 + 11 ** (2 / 3))
    assert float(found[0].detach()) == pytest.approx(by_hand, abs=1e-6)
    found.sum().backward()
    assert log_alpha.grad is not None
    torch.testing.assert_close(log_alpha.grad, (found * (1 - found)).detach())
    uniform = torch.rand(3, 40_000, generator=torch.Generator().manual_seed(0))
    z = drawn(log_alpha.detach()[:, None], uniform)
    assert (z > 0).float().mean(1).tolist() == pytest.approx(found.tolist(), abs=0.01)
    assert value(log_alpha.detach()).tolist() == pytest.approx(z.mean(1).tolist(), abs=0.07)
    assert (float(z.min()), float(z.max())) == (0.0, 1.0)


def test_a_drawn_gate_by_hand() -> None:
    """u = 1/2, log α = 1: s = σ(1.5), stretched to [−0.1, 1.1]; where it is cut at 0 or 1 there is no slope."""
    log_alpha = torch.tensor([1.0, 9.0, -9.0], requires_grad=True)
    found = drawn(log_alpha, torch.full((3,), 0.5))
    s = 1 / (1 + math.exp(-1.5))
    assert found.tolist() == pytest.approx([1.2 * s - 0.1, 1.0, 0.0], abs=1e-6)
    found.sum().backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad.tolist() == pytest.approx([1.2 * 1.5 * s * (1 - s), 0.0, 0.0], abs=1e-6)


def everything(network: nn.Module) -> tuple[tuple[Group, ...], tuple[Branch, ...]]:
    groups = find(network, tokens(2)).prunable
    return groups, branches(network, groups, tokens(2))


def test_the_expected_size_is_the_mean_over_all_masks() -> None:
    """One layer of two heads of one, two channels, a stream of two: all 256 masks, each counted matrix by matrix."""
    groups, able = everything(opened(Bert(width=2, heads=2, all_width=2, hidden=2, layers=1)))
    groups = tuple(group for group in groups if group.name != "pooler")
    gates = Gates(groups, able, 1, seed=0)
    chances = dict(
        zip(
            itertools.product("whfab", "01"),
            torch.rand(10, generator=torch.Generator().manual_seed(1)).tolist(),
            strict=True,
        )
    )
    name = {"words": "w", "layer.0.attention.self": "h", "layer.0.intermediate": "f"}

    def of_group(group: Group) -> torch.Tensor:
        return torch.tensor([chances[name[group.name], "0"], chances[name[group.name], "1"]])

    def of_branch(branch: Branch) -> torch.Tensor:
        return torch.tensor(chances["a" if branch.attention else "b", "0"])

    total = 0.0
    for bits in itertools.product((0, 1), repeat=8):
        w, h, f, (a, b) = bits[:2], bits[2:4], bits[4:6], bits[6:]
        likely = math.prod(
            p if bit else 1 - p
            for bit, p in zip(
                bits, [*(chances[k, i] for k in "whf" for i in "01"), chances["a", "0"], chances["b", "0"]], strict=True
            )
        )
        three = 3 * sum(a * row * column for row in h for column in w)
        out = sum(a * row * column for row in w for column in h)
        up, down = (
            sum(b * row * column for row in f for column in w),
            sum(b * row * column for row in w for column in f),
        )
        total += likely * (three + out + up + down)
    size = Size(groups, able)
    assert float(size.expected(of_group, of_branch)) == pytest.approx(total, rel=1e-5)
    assert size.whole == 4 * 4 + 2 * 4
    assert len(gates.log_alpha) == 8


def test_the_multipliers_climb_while_too_much_is_kept() -> None:
    groups, able = everything(opened(Bert(layers=1)))
    gates, size = Gates(groups, able, 1, seed=0), Size(groups, able)
    added = Lagrangian(gates, size, density=0.25, rising=0.5, lr=0.1, weight=0.0, settings="")
    likely = float(chance(torch.tensor(2.5)))
    assert float(added.expected.detach()) == pytest.approx(likely**3, abs=0.01)  # branch, head or channel, stream
    terms = added(tokens(), 0.25)  # half of the way: 1 − 0.75 / 2
    over = float(added.expected.detach()) - 0.625
    assert set(terms) == {"size"} and float(terms["size"].detach()) == 0.0
    terms["size"].backward()
    assert added.multipliers.grad is not None
    assert added.multipliers.grad.tolist() == pytest.approx([-over, -(over**2)], rel=1e-4)  # a descent climbs
    assert pull(torch.tensor(0.5), 0.25, torch.tensor([2.0, 4.0])).item() == 2 * 0.25 + 4 * 0.0625


def test_layers_are_matched_to_the_nearest_that_is_there() -> None:
    """Teacher's at 0, 4 and 9 on a line, the student's at 1, 5 and 8: without the second, 4 is nearest to 1."""
    teacher = [torch.full((2, 3, 4), x) for x in (0.0, 4.0, 9.0)]
    student = [torch.full((2, 3, 4), x, requires_grad=True) for x in (1.0, 5.0, 8.0)]
    assert match(student, teacher, [True, True, True]) == [0, 1, 2]
    assert match(student, teacher, [True, False, True]) == [0, 0, 2]
    assert match(student, teacher, [False, False, False]) == [0, 1, 2]
    loss = layerwise(student, teacher, [True, False, True])
    assert float(loss.detach()) == 1.0 + 9.0 + 1.0
    loss.backward()
    assert student[1].grad is None and student[0].grad is not None
    assert float(student[0].grad.sum()) == pytest.approx(2 * (1.0 + -3.0))


def test_layers_are_the_modules_that_hold_an_attention_and_what_follows_it() -> None:
    _, able = everything(opened(Torch()))
    assert list(blocks(able)) == ["encoder.layers.0", "encoder.layers.1"]
    _, able = everything(opened(Bert()))
    assert list(blocks(able)) == ["layer.0", "layer.1"]
    _, able = everything(opened(Fused()))
    with pytest.raises(UserError, match="share no module") as caught:
        blocks(able)
    assert "layerwise = 0" in caught.value.hint


@pytest.mark.parametrize("make", [Torch, Bert, Fused])
def test_the_narrowed_network_is_the_masked_one(make: type[nn.Module]) -> None:
    """Soft gates and hard zeros, two branches out: settled masks, then the weights that hold them, then the cut."""
    network = opened(make())
    groups, able = everything(network)
    gates = Gates(groups, able, 2, seed=0)
    with torch.no_grad():
        gates.log_alpha.copy_(3 * torch.randn(len(gates.log_alpha), generator=torch.Generator().manual_seed(3)))
        for index, _ in enumerate(able):  # the last ones
            gates.log_alpha[-1 - index] = -6.0 if index in (0, len(able) - 1) else 1.0
    before = copy.deepcopy(network.state_dict())
    with gated(network, gates), torch.no_grad():
        masked = network(tokens())
        network.train()
        assert not torch.equal(network(tokens()), network(tokens())), "drawn anew"
        network.eval()
        assert torch.equal(network(tokens()), masked)
    with torch.no_grad():
        torch.testing.assert_close(network.state_dict()["head.bias"], before["head.bias"])
        gone = gates.gone()
        assert len(gone) == min(2, len(able))
        removed = {part: outputs for branch in gone for part, outputs in branch.removed.items()}
        names = {branch.name for branch in gone}
        keep = {name: kept for name, kept in gates.keep().items() if name not in names}
        assert any(len(kept) < group.channels for group in groups if (kept := keep.get(group.name)) is not None)
        replay(network, {"edit": "prune", **cut(groups, keep, removed)})
        torch.testing.assert_close(network(tokens()), masked, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in network.parameters()) < sum(v.numel() for v in before.values())
