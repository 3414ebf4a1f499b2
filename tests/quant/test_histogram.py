"""The growing histogram loses no count and misplaces none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import EdgekdError
from edgekd.quant.histogram import Histogram

floats = st.floats(min_value=-1e6, max_value=1e6, width=32, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(floats, min_size=1, max_size=20), min_size=1, max_size=6))
def test_batches_count_as_all_at_once(batches: list[list[float]]) -> None:
    grown, whole = Histogram(16), Histogram(16)
    for batch in batches:
        grown.update(torch.tensor(batch))
    values = [v for batch in batches for v in batch]
    whole.update(torch.tensor(values))
    assert (grown.first, grown.counts.sum()) == (whole.first, len(values))
    assert grown.width == whole.width or whole.counts.size == 1
    assert np.array_equal(grown.counts, whole.counts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(floats, min_size=1, max_size=20), min_size=1, max_size=6))
def test_every_value_is_in_its_bin(batches: list[list[float]]) -> None:
    histogram = Histogram(16)
    for batch in batches:
        histogram.update(torch.tensor(batch))
    values = np.array([v for batch in batches for v in batch])
    edges = histogram.edges
    assert histogram.counts.size <= 16
    assert edges[0] <= min(values.min(), 0) <= max(values.max(), 0) < edges[-1]
    expected = [int(((low <= values) & (values < high)).sum()) for low, high in pairwise(edges)]
    assert list(histogram.counts) == expected
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())


def test_growing_merges_neighbours_by_hand() -> None:
    histogram = Histogram(4)
    histogram.update(torch.tensor([0.0, 1.0, 2.0, 3.0]))  # width 1: one value a bin
    assert (histogram.width, list(histogram.counts)) == (1.0, [1, 1, 1, 1])
    histogram.update(torch.tensor([7.0]))  # width 2: [0, 2), [2, 4), [4, 6), [6, 8)
    assert (histogram.width, list(histogram.counts)) == (2.0, [2, 2, 0, 1])
    histogram.update(torch.tensor([-1.0]))  # does not fit in 4 bins of 2: [-4, 0), [0, 4), [4, 8)
    assert (histogram.width, histogram.first, list(histogram.counts)) == (4.0, -1, [1, 4, 1])


def test_a_width_may_grow_beyond_any_integer() -> None:
    histogram = Histogram(4)
    histogram.update(torch.tensor([-(2.0**-52), 2.0**-53]))
    histogram.update(torch.tensor([1920.0]))  # 2**62 times wider: of the small values each ends on its side of zero
    assert (histogram.width, histogram.first) == (1024.0, -1)
    assert list(histogram.counts) == [1, 1, 1]


def test_values_that_are_not_finite_say_how_many() -> None:
    with pytest.raises(EdgekdError, match="2 of 3 values of an activation are NaN or infinite"):
        Histogram(8).update(torch.tensor([float("nan"), 1.0, float("inf")]))
