"""Weights by confidence: by hand."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from edgekd.losses.confidence_weighted import ConfidenceWeighted


def test_a_number_worked_out_by_hand() -> None:
    """The teacher's largest are 3/4 and 1/2, so the weights 3/5 and 2/5; the student gives the labels 1/4 and 1/2."""
    teacher = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    student = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    expected = -(0.6 * math.log(0.25) + 0.4 * math.log(0.5))
    assert ConfidenceWeighted()(student, teacher, labels=torch.tensor([0, 1])).item() == pytest.approx(
        expected, rel=1e-6
    )


def test_a_teacher_equally_sure_of_all_makes_it_cross_entropy() -> None:
    torch.manual_seed(0)
    student, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    teacher = torch.stack([torch.randperm(4) for _ in range(5)]).float()
    torch.testing.assert_close(ConfidenceWeighted()(student, teacher, labels=labels), cross_entropy(student, labels))
