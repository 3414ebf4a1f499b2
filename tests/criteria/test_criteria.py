"""Each criterion against numbers worked out by hand, and teacher_gap against what removing a channel really costs."""

from __future__ import annotations

import copy

import pytest
import torch
from coupled import Concat, Depthwise, Residual, images, settled
from scipy.stats import spearmanr
from tiny import tiny_data, tiny_student
from torch import nn
from torch.func import functional_call
from torch.nn.functional import kl_div, log_softmax

from edgekd import registry
from edgekd.criteria.bn_scale import BnScale
from edgekd.criteria.ctkl import Ctkl, balanced, masked, relaxed
from edgekd.criteria.fisher import Fisher
from edgekd.criteria.fpgm import Fpgm
from edgekd.criteria.magnitude import Magnitude
from edgekd.criteria.random import Random
from edgekd.criteria.taylor import Taylor
from edgekd.criteria.teacher_gap import TeacherGap
from edgekd.errors import UserError
from edgekd.pruning.edits import replay
from edgekd.pruning.groups import Group, find, kept_sides
from edgekd.pruning.scoring import NEEDS, Batch, Criterion, scores
from edgekd.training.train import logits_of


def two_layers(first: list[list[float]], second: list[list[float]]) -> tuple[nn.Module, Group]:
    """Linear → ReLU → Linear with these weights [out, in] and no biases, and the group of the channels between them."""
    network = nn.Sequential(nn.Linear(len(first[0]), len(first)), nn.ReLU(), nn.Linear(len(first), len(second)))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(first))
        network[2].weight.copy_(torch.tensor(second))
        for layer in (network[0], network[2]):
            layer.bias.zero_()
    (group,) = find(network.eval(), torch.randn(2, len(first[0]))).prunable
    return network, group


def kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return kl_div(log_softmax(student, 1), log_softmax(teacher, 1), reduction="batchmean", log_target=True)


SCORING = [n for n in registry.names("criteria") if registry.constant("criteria", n, "needs") != "training"]


@pytest.mark.parametrize("name", SCORING)
def test_the_contract(name: str) -> None:
    criterion = registry.build("criteria", name, {})
    assert criterion.needs in NEEDS
    network = settled(Residual())
    kl(network(images()), torch.zeros(3, 4)).backward()
    before = copy.deepcopy(network.state_dict())
    groups = find(network, images(2)).prunable
    batch = (images(), torch.tensor([0, 1, 2]), None)
    learned = {} if isinstance(criterion, Criterion) else criterion.learn(network, groups, [batch] * 2)
    for group in groups:
        found = learned[group.name] if learned else criterion(group)
        assert found.shape == (group.channels,)
        assert not found.requires_grad
        assert bool(torch.isfinite(found).all())
        assert len(found.unique()) > 1
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_magnitude_is_the_norm_of_what_makes_and_reads_a_channel() -> None:
    _, group = two_layers([[3.0], [0.0]], [[4.0, 5.0], [0.0, 12.0]])
    assert Magnitude()(group).tolist() == pytest.approx([5 / 9, 13 / 9])  # √(9 + 16) and √(25 + 144), over their mean 9


def test_magnitude_of_a_dead_group_is_zero() -> None:
    _, group = two_layers([[0.0], [0.0]], [[0.0, 0.0]])
    assert Magnitude()(group).tolist() == [0.0, 0.0]


def test_bn_scale_sums_the_scales_of_a_residual_stream() -> None:
    network = settled(Residual())
    with torch.no_grad():
        network.stem[1].weight.copy_(torch.tensor([1.0, -2, 3, 0, 0, 0, 0, 0]))
        network.outer[1].weight.copy_(torch.tensor([0.5, 0.5, -4, 0, 0, 0, 0, 1]))
    stream = next(g for g in find(network, images(2)).prunable if g.name == "stem.0")
    assert BnScale()(stream).tolist() == [1.5, 2.5, 7.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_bn_scale_leaves_a_group_without_batch_norm_whole() -> None:
    network, group = two_layers([[1.0], [2.0]], [[1.0, 1.0]])
    with pytest.raises(UserError, match="no batch norm"):
        BnScale()(group)
    assert scores(network, [group], BnScale(), []) == ({}, {group.name: "bn_scale: its channels pass no batch norm"})


def test_taylor_sums_squares_of_gradient_times_weight() -> None:
    network, group = two_layers([[1.0, 2.0], [3.0, 4.0]], [[7.0, 7.0]])
    network[0].weight.grad = torch.tensor([[1.0, -1.0], [0.5, 0.0]])
    assert Taylor()(group).tolist() == [1.0 + 4.0, 2.25]


def test_teacher_gap_is_the_size_of_the_gate_gradient() -> None:
    network, group = two_layers([[1.0], [1.0]], [[2.0, -3.0], [1.0, 1.0]])
    network[2].weight.grad = torch.tensor([[0.5, 1.0], [-1.0, 2.0]])
    assert TeacherGap()(group).tolist() == [0.0, 1.0]  # 2·0.5 − 1·1 = 0; |−3·1 + 1·2| = 1


def test_teacher_gap_of_a_plain_chain_is_the_gate_on_its_batch_norm() -> None:
    """Derived another way: scaling γ and β by m scales what ReLU passes by m, so ∂KL/∂m = γ·g_γ + β·g_β."""
    network = settled(Residual())
    kl(network(images(8)), torch.randn(8, 4)).backward()
    inner = next(g for g in find(network, images(2)).prunable if g.name == "inner.0")
    norm = network.inner[1]
    expected = (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs().detach()
    torch.testing.assert_close(TeacherGap()(inner), expected, rtol=1e-4, atol=1e-5)


def test_teacher_gap_is_the_slope_of_the_divergence_where_channels_are_gated() -> None:
    """Through depth-wise layers, hard-swish and a squeeze-and-excite gate: against a central difference in double precision."""
    network, teacher, x = settled(Depthwise()).double(), torch.randn(8, 4).double(), images(8).double()
    kl(network(x), teacher).backward()
    for group in find(network, x[:2]).prunable:
        slopes = []
        for channel in range(group.channels):
            ends = []
            for gate in (1 + 1e-5, 1 - 1e-5):
                gated = copy.deepcopy(network)
                with torch.no_grad():
                    for member in group.consumers:
                        weight = gated.get_submodule(member.name).weight
                        weight.select(member.axis, member.positions[channel][0]).mul_(gate)
                    ends.append(kl(gated(x), teacher))
            slopes.append((ends[0] - ends[1]) / 2e-5)
        torch.testing.assert_close(TeacherGap()(group).double(), torch.stack(slopes).abs(), rtol=1e-4, atol=1e-6)


def true_rise(network: nn.Module, group: Group, inputs: torch.Tensor, teacher: torch.Tensor) -> list[float]:
    """KL(teacher ‖ student) without each channel, minus that with all, in nats."""
    found = []
    for places in zip(*(member.positions for member in group.consumers), strict=True):
        without = copy.deepcopy(network)
        with torch.no_grad():
            for member, positions in zip(group.consumers, places, strict=True):
                weight = without.get_submodule(member.name).weight
                for position in positions:
                    weight.select(member.axis, position).zero_()
        found.append(float(kl(logits_of(without, inputs), teacher) - kl(logits_of(network, inputs), teacher)))
    return found


def batches(inputs: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor, size: int) -> list[Batch]:
    return list(zip(inputs.split(size), targets.split(size), teacher.split(size), strict=True))


def distilled(width: int, teacher: nn.Module, steps: int) -> nn.Module:
    """A student that a teacher has taught, its divergence near an optimum."""
    student, inputs = tiny_student(width, 1).train(), tiny_data().train[0]
    logits, order = logits_of(teacher, inputs), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (32,), generator=order)
        optimizer.zero_grad()
        kl(student(inputs[batch]), logits[batch]).backward()
        optimizer.step()
        cosine.step()
    return student.eval()


def test_teacher_gap_ranks_channels_as_their_removal_does() -> None:
    """Over all 32 channels of a distilled student. Weights alone say less, and so does the mean gradient of all samples."""
    teacher = tiny_student(16, 7, trained=True).eval()
    student = distilled(8, teacher, 60)
    inputs, targets = (part[:64] for part in tiny_data().train)
    logits = logits_of(teacher, inputs)
    groups = find(student, inputs[:2]).prunable
    rise = [value for group in groups for value in true_rise(student, group, inputs, logits)]

    def rank(criterion: Criterion, size: int) -> float:
        found, _ = scores(student, groups, criterion, batches(inputs, targets, logits, size))
        return float(spearmanr(torch.cat([found[g.name] for g in groups]), rise)[0])

    assert rank(TeacherGap(), 1) > 0.9
    assert rank(TeacherGap(), 1) > rank(TeacherGap(), 64) + 0.05
    assert rank(TeacherGap(), 1) > max(rank(Magnitude(), 1), rank(BnScale(), 1)) + 0.2
    assert rank(Taylor(), 1) > 0.7


def test_gradients_are_averaged_over_batches_by_their_size_and_left_clean() -> None:
    network = settled(Residual())
    x, y, t = images(5), torch.tensor([0, 1, 2, 3, 0]), torch.randn(5, 4)
    groups = find(network, x[:2]).prunable
    both, _ = scores(network, groups, TeacherGap(), batches(x, y, t, 3))
    first, _ = scores(network, groups, TeacherGap(), [(x[:3], y[:3], t[:3])])
    last, _ = scores(network, groups, TeacherGap(), [(x[3:], y[3:], t[3:])])
    for group in groups:
        torch.testing.assert_close(both[group.name], (3 * first[group.name] + 2 * last[group.name]) / 5)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_student_that_is_its_teacher_is_said_so() -> None:
    network = settled(Residual())
    same = logits_of(network, images(4))
    with pytest.raises(UserError, match="already computes what the teacher does") as caught:
        scores(network, find(network, images(2)).prunable, TeacherGap(), [(images(4), torch.zeros(4), same)])
    assert "taylor" in caught.value.hint


def test_fisher_is_half_the_squared_slope_of_a_gate_where_the_channel_is_read() -> None:
    network, group = two_layers([[1.0], [1.0]], [[2.0, -3.0], [1.0, 1.0]])
    network[2].weight.grad = torch.tensor([[0.5, 1.0], [-1.0, 5.0]])
    assert Fisher()(group).tolist() == [0.0, 2.0]  # 0.5·2 − 1·1 = 0; (1·(−3) + 5·1)² / 2 = 2


def test_fisher_is_the_mean_of_squares_over_samples_of_the_central_difference() -> None:
    """Gates through squeeze-and-excite, one sample at a time, cross entropy: ½ mean (dL/dm)²."""
    network, x, y = settled(Depthwise()).double(), images(3).double(), torch.tensor([0, 3, 1])
    groups = find(network, x[:2]).prunable
    found, _ = scores(network, groups, Fisher(), [(x[i : i + 1], y[i : i + 1], None) for i in range(3)])
    group = next(g for g in groups if g.name == "project.0")
    for channel in range(group.channels):
        slopes = []
        for i in range(3):
            ends = []
            for gate in (1 + 1e-5, 1 - 1e-5):
                gated = copy.deepcopy(network)
                with torch.no_grad():
                    gated.head.weight[:, channel] *= gate
                    ends.append(float(nn.functional.cross_entropy(gated(x[i : i + 1]), y[i : i + 1])))
            slopes.append((ends[0] - ends[1]) / 2e-5)
        expected = sum(slope**2 for slope in slopes) / 3 / 2
        assert float(found["project.0"][channel]) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_fpgm_keeps_what_lies_far_from_the_others_whatever_its_size() -> None:
    """Filters at 0, 3, 4 and 9 on a line: their sums of distances are 16, 10, 10 and 20, of mean 14."""
    _, group = two_layers([[0.0], [3.0], [4.0], [9.0]], [[1.0, 1.0, 1.0, 1.0]])
    assert Fpgm()(group).tolist() == pytest.approx([16 / 14, 10 / 14, 10 / 14, 20 / 14])


def test_fpgm_adds_up_over_the_layers_that_make_a_stream_and_equal_filters_are_no_division_by_zero() -> None:
    network = settled(Residual())
    group = next(g for g in find(network, images(2)).prunable if g.name == "stem.0")
    expected = torch.zeros(8)
    for layer in (network.stem[0], network.outer[0]):
        flat = layer.weight.detach().flatten(1)
        sums = torch.tensor([sum(float(torch.dist(a, b)) for b in flat) for a in flat])
        expected += sums / sums.mean()
    torch.testing.assert_close(Fpgm()(group), expected, rtol=1e-4, atol=1e-5)
    _, alike = two_layers([[2.0], [2.0]], [[1.0, 1.0]])
    assert Fpgm()(alike).tolist() == [0.0, 0.0]


def test_random_is_the_same_each_time_and_another_for_each_group() -> None:
    stem, *others = find(settled(Residual()), images(2)).prunable
    assert torch.equal(Random()(stem), Random()(stem))
    assert not torch.equal(Random()(stem)[:8], Random()(others[0])[:8])
    assert float(Random()(stem).min()) >= 0 and float(Random()(stem).max()) < 1


def test_a_relaxed_mask_is_a_coin_that_falls_on_keep_as_often_as_its_log_odds_say() -> None:
    """σ((ln 3 + logit u) / (2/3)): for u = 1/2 it is 3^1.5 / (1 + 3^1.5) = 0.83863; above 1/2 just where u > 1/4."""
    odds = torch.tensor(3.0).log()
    drawn = torch.tensor([0.5, 0.25, 0.2, 0.3])
    found = relaxed(odds.expand(4), drawn)
    expected = [
        3**1.5 / (1 + 3**1.5),
        0.5,
        (3 * 0.25) ** 1.5 / (1 + (3 * 0.25) ** 1.5),
        (9 / 7) ** 1.5 / (1 + (9 / 7) ** 1.5),
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    many = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    assert float((relaxed(odds.expand(20_000), many) > 0.5).float().mean()) == pytest.approx(0.75, abs=0.01)
    assert bool(torch.isfinite(relaxed(odds.expand(2), torch.tensor([0.0, 1.0]))).all())


def test_the_excess_pulls_as_hard_as_the_loss_while_too_much_is_kept() -> None:
    of_loss, of_excess = torch.tensor([3.0, -4.0]), torch.tensor([0.6, 0.8])  # of lengths 5 and 1
    first = balanced(None, of_loss, of_excess, 0.2)
    assert first == pytest.approx(5.0)
    second = balanced(first, of_loss, of_excess, -0.1)
    assert second == pytest.approx(0.9 * 5.0)
    assert balanced(second, of_loss, 2 * of_excess, 0.1) == pytest.approx(0.9 * 4.5 + 0.1 * 2.5)
    assert balanced(None, of_loss, of_excess, 0.0) == 0.0


@pytest.mark.parametrize("made", [Residual, Concat, Depthwise])
def test_masks_of_nought_and_one_are_the_network_without_those_channels(made: type[nn.Module]) -> None:
    network, x = settled(made()), images(4)
    groups = find(network, x[:2]).prunable
    keep = {group.name: list(range(0, group.channels, 2)) for group in groups}
    masks = [torch.tensor([float(c in keep[group.name]) for c in range(group.channels)]) for group in groups]
    found = functional_call(network, masked(groups, masks), (x,))
    narrowed = copy.deepcopy(network)
    replay(narrowed, {"edit": "prune", "kept": kept_sides(groups, keep)})
    torch.testing.assert_close(found, narrowed(x), rtol=1e-4, atol=1e-4)


def test_ctkl_sees_channels_that_cancel_each_other_where_single_channels_look_important() -> None:
    """Channels 0 and 1 are alike and read with opposite signs: together they do nothing, alone each would do much."""
    network, group = two_layers(
        [[2.0, 0.0], [2.0, 0.0], [1.0, 1.0], [-1.0, 1.0]],
        [[2.0, -2.0, 1.0, -1.0], [-2.0, 2.0, -1.0, 1.0], [0.0, 0.0, 1.0, 1.0]],
    )
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    batch = (x, torch.zeros(64, dtype=torch.long), None)
    found, unable = scores(network, [group], Ctkl(density=0.5, steps=150), [batch] * 150)
    again, _ = scores(network, [group], Ctkl(density=0.5, steps=150), [batch] * 150)
    assert sorted(found[group.name].topk(2).indices.tolist()) == [2, 3]
    assert float(found[group.name].sigmoid().mean()) == pytest.approx(0.5, abs=0.15)
    assert torch.equal(found[group.name], again[group.name]) and unable == {}
    one_by_one = sorted(Magnitude()(group).topk(2).indices.tolist())
    assert one_by_one == [0, 1]
