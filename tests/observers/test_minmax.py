"""The minimum and the maximum."""

from __future__ import annotations

import torch

from edgekd.observers.minmax import MinMax


def test_the_extremes_of_all_batches() -> None:
    observer = MinMax()
    for batch in ([1.0, 2.0], [-7.5], [3.0, 0.0]):
        observer.update(torch.tensor(batch))
    assert observer.range() == (-7.5, 3.0)
