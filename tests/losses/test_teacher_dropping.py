"""The furthest teacher always teaches, the others sometimes: by hand, and by how often."""

import math

import pytest
import torch

from edgekd.losses.teacher_dropping import TeacherDropping

STUDENT = torch.zeros(1, 2)
SURE, UNSURE = [math.log(0.9), math.log(0.1)], [0.0, 0.0]
FAR = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)  # of the sure teacher; the other says what the student says


def value(drop: float, teacher: torch.Tensor, seed: int = 0) -> float:
    torch.manual_seed(seed)
    student = STUDENT.expand(len(teacher), 2)
    return TeacherDropping(temperature=1.0, drop=drop)(student, teacher).item()


def test_numbers_worked_out_by_hand() -> None:
    """Two teachers, 0.368 and 0 nats away: all of them 0.184; the furthest alone 0.368, whichever it is."""
    both = torch.tensor([[SURE, UNSURE]])
    assert value(0.0, both) == pytest.approx(FAR / 2, rel=1e-6)
    assert value(0.999999, both) == pytest.approx(FAR, rel=1e-6)
    assert value(0.999999, both.flip(1)) == pytest.approx(FAR, rel=1e-6)


def test_others_teach_as_often_as_it_says() -> None:
    """Of n samples n · (1 − 0.3) others are kept: n · 0.368 / (n + 0.7 n)."""
    many = torch.tensor([[SURE, UNSURE]]).expand(20_000, 2, 2)
    assert value(0.3, many) == pytest.approx(FAR / 1.7, rel=0.01)


def test_one_teacher_is_never_dropped() -> None:
    assert value(0.9, torch.tensor([[SURE]])) == pytest.approx(FAR, rel=1e-6)
