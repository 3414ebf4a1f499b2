"""The teacher's units that matter: relevance and correlation by hand, when they are gathered, and who is refused."""

import math

import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.task_units import TaskUnits

LOSS = TaskUnits(student="block", teacher="layer", observe=0.5)
WEIGHTS = torch.tensor([math.log(3) / 2, 0.0, 2.0])


def tail(x: torch.Tensor) -> torch.Tensor:
    """Two classes, z = ± w · t of the mean over positions."""
    score = (x.flatten(2).mean(2) if x.dim() > 2 else x) @ WEIGHTS
    return torch.stack([score, -score], 1)


def test_relevance_worked_out_by_hand() -> None:
    """t = (1, 5, 0): w · t = log(3) / 2, p = σ(2 w · t) = 3/4. ∂ log p / ∂ t = 2 (1 − p) w = w / 2. The mirrored sample: the same."""
    teacher = torch.tensor([[1.0, 5.0, 0.0], [-1.0, 7.0, 0.0]])
    state = LOSS.state(torch.zeros(2, 2), teacher, 10).train()
    found = LOSS(torch.randn(2, 2), teacher, tail=tail, progress=0.0, state=state)
    torch.testing.assert_close(state.sums, 2 * WEIGHTS / 2)
    assert found.item() == 0
    maps = teacher[:, :, None, None].expand(
        2, 3, 2, 2
    )  # each of four positions has a quarter of the gradient: the mean of |·|
    state.sums.zero_()
    LOSS(torch.randn(2, 2, 2, 2), maps, tail=tail, progress=0.0, state=state)
    torch.testing.assert_close(state.sums, WEIGHTS / 4)


def test_correlations_worked_out_by_hand() -> None:
    """Units 0 and 2 are the relevant ones. (1, 2, 3) with (2, 4, 6): ρ = 1. (1, 2, 3) with (3, 2, 1): ρ = −1. (0 + 4) / 2."""
    student = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    teacher = torch.tensor([[2.0, 9.0, 3.0], [4.0, 0.0, 2.0], [6.0, 9.0, 1.0]])
    state = LOSS.state(student, teacher, 10).eval()
    state.sums.copy_(torch.tensor([1.0, 0.0, 5.0]))
    assert LOSS(student, teacher, tail=tail, progress=0.5, state=state).item() == pytest.approx(2, rel=1e-6)


def test_it_watches_first_and_then_only_teaches() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 2, requires_grad=True), torch.randn(4, 3)
    state = LOSS.state(student, teacher, 10).train()
    LOSS(student, teacher, tail=tail, progress=0.4, state=state).backward()
    assert not student.grad.any() and state.sums[1] == 0
    seen = state.sums.clone()
    LOSS(student, teacher, tail=tail, progress=0.6, state=state).backward()
    assert student.grad.abs().sum() > 0 and torch.equal(state.sums, seen)
    late = LOSS.state(student, teacher, 10).train()  # nothing was watched: the first batch is
    LOSS(student, teacher, tail=tail, progress=0.6, state=late)
    assert late.sums.any()


def test_a_student_of_more_units_than_its_teacher_is_refused() -> None:
    with pytest.raises(UserError, match=r'"block" has 4 units, the teacher\'s "layer" 3\nhint: a wider module'):
        LOSS.state(torch.zeros(2, 4, 3, 3), torch.zeros(2, 3), 10)
