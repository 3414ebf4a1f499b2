"""Margins: by hand, and what they ignore."""

import pytest
import torch

from edgekd.losses.margin_mse import MarginMse


def test_a_number_worked_out_by_hand() -> None:
    """Label 1: the student leads by 2 − 0 and 2 − 5, the teacher by 4 − 1 and 4 − 2."""
    student, teacher = torch.tensor([[0.0, 2.0, 5.0]]), torch.tensor([[1.0, 4.0, 2.0]])
    found = MarginMse()(student, teacher, labels=torch.tensor([1])).item()
    assert found == pytest.approx(((2 - 3) ** 2 + (-3 - 2) ** 2) / 2)


def test_the_level_of_the_scores_does_not_matter() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 4)
    labels = torch.tensor([0, 1, 2, 3, 0])
    moved = MarginMse()(student + 7, teacher - torch.arange(5.0)[:, None], labels=labels)
    torch.testing.assert_close(moved, MarginMse()(student, teacher, labels=labels))
