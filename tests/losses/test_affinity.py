"""Rows and columns: by hand, and with the gradient of the two cross-entropies that the paper writes."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, softmax

from edgekd.losses.affinity import Affinity

SURE = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # KL([3/4, 1/4] ‖ [1/2, 1/2])


def test_numbers_worked_out_by_hand() -> None:
    """A diagonal of log 3: each row and each column is [3/4, 1/4]. A first column of log 3: so are the rows, the columns are even."""
    three = math.log(3)
    assert Affinity()(torch.zeros(2, 2), three * torch.eye(2)).item() == pytest.approx(SURE, rel=1e-6)
    column = torch.tensor([[three, 0.0], [three, 0.0]])
    assert Affinity()(torch.zeros(2, 2), column).item() == pytest.approx(SURE / 2, rel=1e-6)
    assert Affinity(temperature=2.0)(torch.zeros(2, 2), 2 * column).item() == pytest.approx(SURE / 2, rel=1e-6)


def test_its_gradient_is_that_of_the_papers_cross_entropies() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 5)
    student.requires_grad_()
    (found,) = torch.autograd.grad(Affinity()(student, teacher), student)
    to_texts = cross_entropy(student, softmax(teacher, 1))
    to_images = cross_entropy(student.T, softmax(teacher.T, 1))
    (expected,) = torch.autograd.grad((to_texts + to_images) / 2, student)
    torch.testing.assert_close(found, expected)
