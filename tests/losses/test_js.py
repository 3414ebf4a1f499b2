"""The Jensen-Shannon divergence: by hand, symmetric, bounded."""

import math

import pytest
import torch

from edgekd.losses.js import Js

# The teacher is [1/4, 3/4], the student [3/4, 1/4], half of each [1/2, 1/2].
TEACHER = torch.tensor([[0.0, math.log(3)]])
STUDENT = torch.tensor([[math.log(3), 0.0]])


def test_a_number_worked_out_by_hand() -> None:
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)  # both halves are the same
    assert Js()(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-6)
    assert Js(temperature=2.0)(2 * STUDENT, 2 * TEACHER).item() == pytest.approx(4 * expected, rel=1e-6)


def test_it_is_symmetric_and_bounded_by_log_two() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 6, 5)
    torch.testing.assert_close(Js()(x, y), Js()(y, x))
    apart = torch.tensor([[1e4, 0.0]])
    assert Js()(apart, -apart).item() == pytest.approx(math.log(2), rel=1e-6)


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: Js()(x, teacher), student.requires_grad_())
