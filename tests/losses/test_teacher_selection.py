"""A policy chooses the teachers: by hand, what it remembers, and that it learns from what its choices led to."""

import math

import pytest
import torch

from edgekd.losses.teacher_selection import START, TeacherSelection

STUDENT = torch.zeros(2, 2)
TEACHERS = torch.tensor([[[math.log(0.9), math.log(0.1)], [0.0, 0.0]]]).expand(2, 2, 2)
FAR = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
SAMPLES = torch.tensor([5, 2])
LOSS = TeacherSelection(temperature=1.0)


def call(state, student=STUDENT, targets=(0, 0)):  # type: ignore[no-untyped-def]
    return LOSS(student, TEACHERS, targets=torch.tensor(targets), samples=SAMPLES, state=state)


@pytest.mark.parametrize(("sure", "expected"), [([50, -50], FAR), ([50, 50], FAR / 2), ([-50, 50], 0), ([-50, -50], 0)])
def test_the_mean_of_those_that_are_chosen(sure: list[float], expected: float) -> None:
    state = LOSS.state(STUDENT, TEACHERS, 8)
    state.bias.data = torch.tensor(sure, dtype=torch.float32)
    student = STUDENT.clone().requires_grad_()
    found = call(state, student)
    found.backward()
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert student.grad is not None and bool(student.grad.any()) == (expected > 0)


def test_it_begins_by_asking_almost_everyone() -> None:
    state = LOSS.state(STUDENT, TEACHERS, 8)
    odds = state.odds(torch.full((2, 2), 0.5), TEACHERS.exp(), torch.zeros(2, 2))
    torch.testing.assert_close(odds.sigmoid(), torch.full((2, 2), START))


def test_the_policy_gradient_by_hand() -> None:
    """Two samples of class 0, met at q = (1/2, 1/2), and again where the first is at 0.8 and the second at 0.4.

    Their cross-entropies fell by ln 1.6 and ln 0.8: less the mean of these, A = ±½ ln 2. The gradient of b_k is mean A_i (π − a_ik)
    with π = 0.8; that of w_k's first number is half of it, since q was 1/2.
    """
    state = LOSS.state(STUDENT, TEACHERS, 8)
    torch.manual_seed(0)
    while not torch.equal(state.taught[SAMPLES], torch.tensor([[1.0, 0.0], [1.0, 1.0]])):
        state.off.fill_(math.nan)  # as if they had not been met before
        call(state)
    assert state.off[SAMPLES].tolist() == pytest.approx([math.log(2)] * 2)
    assert state.said[5].tolist() == [0.5, 0.5] and not state.said[3].any()
    again = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    found = call(state, again)
    assert found.item() >= 0  # what the policy learns by adds nothing
    found.backward()
    assert state.bias.grad.tolist() == pytest.approx([0, math.log(2) / 4], abs=1e-6)
    assert state.weight.grad[:, 0].tolist() == pytest.approx([0, math.log(2) / 8], abs=1e-6)
    assert state.off[5].item() == pytest.approx(-math.log(0.8))


def test_samples_without_a_label_are_judged_by_the_teachers_mean() -> None:
    state = LOSS.state(STUDENT, TEACHERS, 8).train()
    again = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    call(state, again, targets=(-1, 0))
    expected = -(0.7 * math.log(0.8) + 0.3 * math.log(0.2))  # the mean of (0.9, 0.1) and (0.5, 0.5)
    assert state.off[SAMPLES].tolist() == pytest.approx([expected, -math.log(0.4)], rel=1e-5)


def test_it_learns_whom_to_ask() -> None:
    """Whom the first teacher taught is nearer the label when it is met again, whom the second taught is further off."""
    torch.manual_seed(0)
    count = 128
    samples, targets = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    teachers = torch.randn(count, 2, 3)
    right = torch.zeros(count)
    state = LOSS.state(torch.zeros(count, 3), teachers, count).train()
    optimizer = torch.optim.SGD(state.parameters(), lr=3.0)
    for _ in range(60):
        student = torch.stack([right, torch.zeros(count), torch.zeros(count)], 1)
        optimizer.zero_grad()
        LOSS(student.requires_grad_(), teachers, targets=targets, samples=samples, state=state).backward()
        optimizer.step()
        right = 0.8 * right + state.taught[:, 0] - state.taught[:, 1]
    share = state.taught.mean(0)
    assert share[0] > 0.9
    assert share[1] < 0.4
