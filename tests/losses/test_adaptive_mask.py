"""Adaptive masks: by hand, against loops, and what has a gradient."""

import math

import pytest
import torch
from torch.nn.functional import softmax

from edgekd.errors import UserError
from edgekd.losses.adaptive_mask import AdaptiveMask, _alike


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_dice_coefficient_by_hand() -> None:
    """(1, 0) and (0, 1): 0. (1, 0) and (1, 1): 2 · 1 / (1 + 2). (0, 1) and (1, 1): the same. The mean is 4/9; equals give 1."""
    assert _alike(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])).item() == pytest.approx(4 / 9)
    assert _alike(torch.full((1, 2, 3), 0.3)).item() == pytest.approx(1)


def test_numbers_worked_out_by_hand() -> None:
    """One position of two channels: attention on the only position is 1, so F = s with V = 1. s = (0, 2), t = (1, 5): e = (1, 9).

    Channels: masks σ(m s) with m = ±1: (1/2, a) and (1/2, 1 − a), a = σ(2): (1/2 + 9a) / (1/2 + a), and the same with 1 − a.
    Positions: one position has one error, 5, whatever its mask is: 5 each.
    """
    loss = AdaptiveMask(masks=2, diversity=0.0)
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 5.0]])
    state = loss.state(student, teacher, 10)
    with torch.no_grad():
        state.value.weight.copy_(torch.eye(2))
        state.channels.copy_(torch.tensor([[1.0], [-1.0]]))
    a = sigmoid(2)
    channels = [(0.5 + 9 * b) / (0.5 + b) for b in (a, 1 - a)]
    assert loss(student, teacher, state=state).item() == pytest.approx(sum(channels) / 2 + 5, rel=1e-6)


@torch.no_grad()
def test_against_loops() -> None:
    torch.manual_seed(0)
    loss = AdaptiveMask(masks=3)
    student, teacher = torch.randn(2, 4, 2, 3), torch.randn(2, 4, 2, 3)
    state = loss.state(student, teacher, 10)
    found = loss(student, teacher, state=state).item()
    expected = 0.0
    for s, t in zip(student.flatten(2).mT, teacher.flatten(2).mT, strict=True):
        q, k, v = t @ state.query.weight.T, s @ state.key.weight.T, s @ state.value.weight.T
        fused = softmax(q @ k.T / math.sqrt(2), 1) @ v
        error = (s - t) ** 2
        channels = [torch.sigmoid(m * fused.mean(0)) for m in state.channels[:, 0]]
        positions = [torch.sigmoid(fused @ m) for m in state.positions]
        for masks, errors in ((channels, error.mean(0)), (positions, error.mean(1))):
            expected += sum(float((m * errors).sum() / m.sum()) for m in masks) / 3 / 2
            for i, j in ((0, 1), (0, 2), (1, 2)):
                dice = 2 * masks[i] @ masks[j] / (masks[i] @ masks[i] + masks[j] @ masks[j])
                expected += float(dice) / 3 / 2 / 2
    assert found == pytest.approx(expected, rel=1e-5)


def test_masks_learn_but_give_the_student_no_gradient() -> None:
    torch.manual_seed(0)
    loss = AdaptiveMask()
    student, teacher = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 4, 3, 3)
    state = loss.state(student, teacher, 10)
    loss(student, teacher, state=state).backward()
    assert all(p.grad.abs().sum() > 0 for p in state.parameters())
    ours, theirs = (x.detach().flatten(2).mT for x in (student, teacher))
    channels, positions = (m.detach() for m in state(ours, theirs))
    weight = (channels / channels.sum(2, keepdim=True)).mean(1)[:, None] / 9
    weight = weight + (positions / positions.sum(2, keepdim=True)).mean(1)[:, :, None] / 4
    torch.testing.assert_close(student.grad.flatten(2).mT, 2 * weight * (ours - theirs) / 2)


def test_features_of_different_kinds_are_refused() -> None:
    with pytest.raises(UserError, match=r'adaptive_mask: the student\'s "block" gives .* "layer" gives'):
        AdaptiveMask(student="block", teacher="layer").projector(torch.zeros(2, 3), torch.zeros(2, 3, 4, 4))


def test_masks_that_large_features_close_give_no_nan() -> None:
    """σ(−1e4) is 0 in float32: such a mask has nothing to divide by, and the others and the student still learn."""
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 4, 3, 3, requires_grad=True), 1e4 + torch.rand(2, 4, 3, 3)
    loss = AdaptiveMask()
    state = loss.state(student, teacher, 2)
    with torch.no_grad():
        state.value.weight.fill_(1e4)
        state.channels[:3], state.positions[:3] = -1.0, -1.0
    value = loss(student, teacher, state=state)
    value.backward()
    gradients = [student.grad, *(p.grad for p in state.parameters())]
    assert torch.isfinite(value) and all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert float(student.grad.abs().sum()) > 0
