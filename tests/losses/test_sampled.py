"""Draws from the teacher: what one draw is, and that they are right on average."""

import math

import pytest
import torch
from torch.nn.functional import softmax

from edgekd.losses.sampled import Sampled


def test_numbers_worked_out_by_hand() -> None:
    """One draw of two even classes is one or the other: −log q. A sure teacher is always drawn."""
    student = torch.tensor([[0.0, math.log(3)]])
    torch.manual_seed(0)
    found = {round(Sampled(rounds=1)(student, torch.zeros(1, 2)).item(), 5) for _ in range(20)}
    assert sorted(found) == [pytest.approx(-math.log(0.75), abs=1e-5), pytest.approx(-math.log(0.25), abs=1e-5)]
    assert Sampled()(student, torch.tensor([[1e4, 0.0]])).item() == pytest.approx(-math.log(0.25), rel=1e-5)


def test_its_mean_gradient_is_that_of_the_whole_divergence() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(1, 5), torch.randn(1, 5).requires_grad_()
    Sampled(rounds=10)(student.expand(20000, 5), teacher.expand(20000, 5)).backward()
    assert student.grad is not None
    expected = softmax(student.detach(), 1) - softmax(teacher, 1)
    torch.testing.assert_close(student.grad, expected, atol=5e-3, rtol=0)  # 5 standard errors of 200,000 draws
