"""The total variation distance, by hand."""

import math

import pytest
import torch

from edgekd.losses.tvd import Tvd

TEACHER = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # [1/4, 3/4] and [1/2, 1/2]
STUDENT = torch.tensor([[0.0, 0.0], [0.0, math.log(9)]])  # [1/2, 1/2] and [1/10, 9/10]


def test_numbers_worked_out_by_hand() -> None:
    assert Tvd()(STUDENT, TEACHER).item() == pytest.approx((0.25 + 0.4) / 2, rel=1e-6)
    assert Tvd(temperature=2.0)(2 * STUDENT, 2 * TEACHER).item() == pytest.approx((0.25 + 0.4) / 2, rel=1e-6)
    apart = torch.tensor([[1e4, 0.0]])
    assert Tvd()(apart, -apart).item() == 1
