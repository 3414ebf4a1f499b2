"""Each class for itself: by hand."""

import math

import numpy as np
import pytest
import torch

from edgekd.losses.binary import Binary


def test_numbers_worked_out_by_hand() -> None:
    """Teacher sigmoid(log 3) = 3/4 and 1/2, student 1/2 and 1/2: one class differs, by 1/4."""
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    assert Binary()(student, teacher).item() == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert Binary(power=2.0)(student, teacher).item() == pytest.approx(0.25**2 * math.log(2), rel=1e-6)
    assert Binary(power=0.0)(student, teacher).item() == pytest.approx(2 * math.log(2), rel=1e-6)  # plain BCE


def test_against_the_definition_in_numpy() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 4)) * 2
    q, p = (1 / (1 + np.exp(-x)) for x in (student, teacher))
    expected = (abs(p - q) * -(p * np.log(q) + (1 - p) * np.log(1 - q))).sum(1).mean()
    found = Binary()(torch.from_numpy(student), torch.from_numpy(teacher)).item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: Binary()(x, teacher), student.requires_grad_())
