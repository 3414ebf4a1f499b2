"""The moving average of the extremes, by hand."""

from __future__ import annotations

import pytest
import torch

from edgekd.observers.moving_average import MovingAverage


def test_by_hand() -> None:
    """Minima -1, -3, 0 with decay 0.75: -1, -1.5, -1.125. Maxima 4, 8, 0: 4, 5, 3.75."""
    observer = MovingAverage(decay=0.75)
    for low, high in ((-1.0, 4.0), (-3.0, 8.0), (0.0, 0.0)):
        observer.update(torch.tensor([low, high]))
    assert observer.range() == pytest.approx((-1.125, 3.75))


def test_a_late_outlier_moves_it_by_a_tenth() -> None:
    observer = MovingAverage()
    observer.update(torch.tensor([0.0, 1.0]))
    observer.update(torch.tensor([0.0, 101.0]))
    assert observer.range() == pytest.approx((0.0, 11.0))
