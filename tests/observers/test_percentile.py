"""Quantiles from a histogram, against numpy's from the values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.observers.percentile import Percentile


@pytest.mark.parametrize("percentile", [75.0, 99.0, 99.9])
def test_quantiles_are_numpys_to_within_a_bin(percentile: float) -> None:
    x = torch.distributions.Laplace(0.3, 1.0).sample((20000,))
    observer = Percentile(percentile=percentile)
    observer.update(x)
    expected = np.quantile(x.numpy(), [1 - percentile / 100, percentile / 100])
    width = (x.max() - x.min()).item() / 2048
    assert observer.range() == pytest.approx(tuple(expected), abs=2 * width)


def test_the_hundredth_is_the_extremes() -> None:
    observer = Percentile(percentile=100.0)
    observer.update(torch.tensor([5.0, 5.5, 900.0]))
    assert observer.range() == (5.0, 900.0)


def test_an_outlier_is_cut_and_the_rest_kept() -> None:
    observer = Percentile(percentile=99.9)
    observer.update(torch.cat([torch.linspace(0, 1, 10000), torch.tensor([1000.0])]))
    low, high = observer.range()
    assert low == 0.0
    assert high == pytest.approx(1.0, abs=0.5)  # one bin is 1000 / 4096 wide


@pytest.mark.parametrize("percentile", [50.0, 100.1, -1.0])
def test_a_percentile_that_leaves_nothing_is_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile must be"):
        Percentile(percentile=percentile)
