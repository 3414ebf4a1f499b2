"""The discriminator: by hand, who learns from what, and that a student can fool it."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.losses.ensemble_discriminator import EnsembleDiscriminator

EVEN, THREE = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])  # [1/2, 1/2] and [1/4, 3/4]
LOSS: Any = EnsembleDiscriminator()


class Linear(nn.Module):
    """D's logit 4 log 3 · (x₂ − 1/2): even answers give D = 1/2, [1/4, 3/4] gives log 3, D = 3/4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 4 * math.log(3)]))
        self.bias = nn.Parameter(torch.tensor(-2 * math.log(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def test_numbers_worked_out_by_hand() -> None:
    """The value is −log D(q) alone. To the student: −(1 − 1/2) · 4 log 3 · q₂ q₁ = −log 3 / 2 for its second logit."""
    student, judge = EVEN.clone().requires_grad_(), Linear()
    found = LOSS(student, THREE, state=judge)
    assert found.item() == pytest.approx(math.log(2), rel=1e-6)
    assert LOSS(THREE, EVEN, state=judge).item() == pytest.approx(-math.log(0.75), rel=1e-6)
    found.backward()
    assert student.grad is not None and judge.bias.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[math.log(3) / 2, -math.log(3) / 2]]))
    # to D, by (−log 3/4 − log(1 − 1/2)) / 2 alone: (−(1 − 3/4) + 1/2) / 2 for its bias
    assert judge.bias.grad.item() == pytest.approx(1 / 8, rel=1e-5)


def test_a_student_learns_to_be_taken_for_the_teacher() -> None:
    """The teacher is sure of one of three classes; a student that begins even ends as sure, though no sample says of which."""
    torch.manual_seed(0)
    teacher = 4 * torch.eye(3).repeat(20, 1) + 0.3 * torch.randn(60, 3)
    student = (0.3 * torch.randn(60, 3)).requires_grad_()
    state = LOSS.state(student, teacher, 60)
    optimizer = torch.optim.Adam([{"params": [student]}, {"params": state.parameters(), "lr": 1e-2}], lr=5e-2)
    before = student.detach().softmax(1).amax(1).mean().item()
    for _ in range(150):
        optimizer.zero_grad()
        LOSS(student, teacher, state=state).backward()
        optimizer.step()
    assert before < 0.5
    assert student.detach().softmax(1).amax(1).mean().item() > 0.75
