"""Soft, hard or left out: by hand, one sample of each kind."""

import math

import pytest
import torch

from edgekd import registry
from edgekd.errors import UserError
from edgekd.losses.label_adapt import LabelAdapt

LOSS = LabelAdapt(low=0.3, middle=0.6, high=0.95, smoothing=0.1)
TEACHER = torch.tensor(
    [
        [0.25, 0.25, 0.25, 0.25],  # nobody's: out
        [0.5, 1 / 6, 1 / 6, 1 / 6],  # unsure: the label
        [0.7, 0.1, 0.1, 0.1],  # its answer
        [0.97, 0.01, 0.01, 0.01],  # too easy: out
    ]
).log()
STUDENT = torch.tensor([[0.0, 0.0, 0.0, math.log(5)]]).repeat(4, 1)  # [1, 1, 1, 5] / 8
LABELS = torch.full((4,), 3)
ONE, FIVE = -math.log(1 / 8), -math.log(5 / 8)
HARD = 0.9 * FIVE + 3 * (0.1 / 3) * ONE
SOFT = (0.7 + 0.1 + 0.1) * ONE + 0.1 * FIVE


def test_numbers_worked_out_by_hand() -> None:
    assert LOSS(STUDENT, TEACHER, labels=LABELS).item() == pytest.approx((HARD + SOFT) / 2, rel=1e-6)
    for row, expected in ((1, HARD), (2, SOFT)):
        one = slice(row, row + 1)
        assert LOSS(STUDENT[one], TEACHER[one], labels=LABELS[one]).item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_of_which_nothing_stays_teaches_nothing() -> None:
    student = STUDENT[[0, 3]].clone().requires_grad_()
    found = LOSS(student, TEACHER[[0, 3]], labels=LABELS[:2])
    found.backward()
    assert found.item() == 0
    assert student.grad is not None and not student.grad.any()


def test_by_default_nothing_easy_is_left_out() -> None:
    """A teacher that is quite sure is still an answer to learn."""
    sure = torch.tensor([[50.0, 0.0, 0.0, 0.0]])
    assert LabelAdapt()(STUDENT[:1], sure, labels=LABELS[:1]).item() == pytest.approx(ONE, rel=1e-5)


def test_thresholds_in_disorder_are_said() -> None:
    with pytest.raises(UserError, match=r"low 0.5, middle 0.3, high 1.0\nhint: low ≤ middle ≤ high"):
        registry.build("losses", "label_adapt", {"low": 0.5})
