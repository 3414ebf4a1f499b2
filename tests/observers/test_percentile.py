"""Quantiles from a histogram, against numpy's from the values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.observers.percentile import Percentile


@pytest.mark.parametrize("percentile", [75.0, 99.0, 99.9])
def test_the_share_outside_is_what_was_asked(percentile: float) -> None:
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0)) ** 3
    observer = Percentile(percentile=percentile)
    observer.update(x)
    low, high = observer.range()
    share, width = 1 - percentile / 100, (x.max() - x.min()).item() / 2048
    for end, inner, outer in ((low, x < low + width, x < low - width), (high, x > high - width, x > high + width)):
        assert outer.double().mean() <= share <= inner.double().mean(), end


def test_quantiles_are_numpys_where_values_are_dense() -> None:
    x = torch.rand(20000, generator=torch.Generator().manual_seed(1)) - 0.3
    observer = Percentile(percentile=99.0)
    observer.update(x)
    assert observer.range() == pytest.approx(tuple(np.quantile(x.numpy(), [0.01, 0.99])), abs=1e-3)


def test_the_hundredth_is_the_extremes() -> None:
    observer = Percentile(percentile=100.0)
    observer.update(torch.tensor([5.0, 5.5, 900.0]))
    assert observer.range() == (5.0, 900.0)


def test_an_outlier_is_cut_and_the_rest_kept() -> None:
    observer = Percentile(percentile=99.9)
    observer.update(torch.cat([torch.linspace(0, 1, 10000), torch.tensor([1000.0])]))
    low, high = observer.range()
    assert low == pytest.approx(0.0, abs=0.01)
    assert high == pytest.approx(1.0, abs=0.5)  # one bin is 1000 / 4096 wide


@pytest.mark.parametrize("percentile", [50.0, 100.1, -1.0])
def test_a_percentile_that_leaves_nothing_is_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile must be"):
        Percentile(percentile=percentile)
