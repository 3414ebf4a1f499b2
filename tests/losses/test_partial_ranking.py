"""Ranking the hard ones: by hand, and against the formula in plain loops."""

import math

import numpy as np
import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.partial_ranking import PartialRanking

STUDENT = torch.tensor([[9.0, 0.0, math.log(2), math.log(3)]])  # exp: the label's, 1, 2, 3
TEACHER = torch.tensor([[0.5, 0.05, 0.3, 0.15]]).log()  # of the others 2, then 3, then 1
LABEL = torch.tensor([0])


@pytest.mark.parametrize(
    ("negatives", "threshold", "expected"),
    [
        (2, 0.1, math.log(5 / 2)),  # the student's hardest are 3 and 2: log((2 + 3) / 2), and log(3 / 3)
        (3, 0.1, math.log(6 / 2) + math.log(4 / 3)),  # log((2 + 3 + 1) / 2), log((3 + 1) / 3)
        (3, 0.2, math.log(6 / 2)),  # only the first is valid
        (3, 0.4, 0.0),
    ],
)
def test_numbers_worked_out_by_hand(negatives: int, threshold: float, expected: float) -> None:
    loss = PartialRanking(negatives=negatives, threshold=threshold)
    assert loss(STUDENT, TEACHER, labels=LABEL).item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_against_the_formula_in_loops() -> None:
    rng = np.random.default_rng(0)
    student, teacher, labels = *rng.normal(size=(2, 12, 10)) * 2, rng.integers(10, size=12)
    expected = 0.0
    for s, t, label in zip(student, teacher, labels, strict=True):
        p = np.exp(t) / np.exp(t).sum()
        hard = sorted((c for c in range(10) if c != label), key=lambda c: -s[c])[:5]
        ranked = sorted(hard, key=lambda c: -t[c])
        for j, c in enumerate(ranked):
            if p[c] <= 0.05:
                break
            expected -= math.log(np.exp(s[c] / 0.5) / sum(np.exp(s[k] / 0.5) for k in ranked[j:]))
    loss = PartialRanking(negatives=5, threshold=0.05, temperature=0.5)
    found = loss(torch.from_numpy(student), torch.from_numpy(teacher), labels=torch.from_numpy(labels))
    assert found.item() == pytest.approx(expected / 12, rel=1e-9)


def test_two_classes_leave_nothing_to_rank() -> None:
    with pytest.raises(UserError, match="partial_ranking: 2 classes leave no negatives to rank"):
        PartialRanking()(torch.zeros(1, 2), torch.zeros(1, 2), labels=LABEL)
