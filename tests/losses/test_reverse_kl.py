"""The reverse divergence: by hand, and what it does not mind."""

import math

import numpy as np
import pytest
import torch

from edgekd.losses.kl import Kl
from edgekd.losses.reverse_kl import ReverseKl

# At τ = 2 the teacher is [1/4, 3/4] and the student [1/2, 1/2].
TEACHER = torch.tensor([[0.0, 2 * math.log(3)]])
STUDENT = torch.zeros(1, 2)


def test_a_number_worked_out_by_hand() -> None:
    expected = 4 * (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert ReverseKl(temperature=2.0)(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-6)


def test_against_the_definition_in_numpy() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 7, 5)) * 3
    q, p = (np.exp(x / 3) / np.exp(x / 3).sum(1, keepdims=True) for x in (student, teacher))
    found = ReverseKl(temperature=3.0)(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.item() == pytest.approx(9 * (q * np.log(q / p)).sum() / 7, rel=1e-12)


def test_a_class_that_the_student_leaves_out_costs_little() -> None:
    """The teacher has two main classes, the student one of them: log 2, where the divergence kl costs 6.9 and more."""
    teacher, student = torch.tensor([[10.0, 10.0, -10.0]]), torch.tensor([[15.0, -15.0, -15.0]])
    assert ReverseKl(temperature=1.0)(student, teacher).item() == pytest.approx(math.log(2), rel=1e-4)
    assert Kl(temperature=1.0)(student, teacher).item() > 6.9


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: ReverseKl()(x, teacher), student.requires_grad_())
