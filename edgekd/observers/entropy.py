"""The range that keeps most information: least KL divergence between the distribution and its quantized self."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.errors import EdgekdError
from edgekd.quant.histogram import Histogram

__all__ = ["Entropy"]


STRIDE = 4  # bins between one candidate threshold and the next: a five-hundredth of the range


@dataclass
class Entropy:
    """Range clipped at the threshold T of |x| with the least KL(P ‖ Q).

    For each T, P is the histogram of |x| below T with everything above T added to its last bin; Q is the histogram below T
    (without that) merged into the grid's levels and spread again evenly over the bins that P fills. A tensor of one sign has
    all `levels` for |x|, one of both signs half of them. Point masses are flattened first: see `flatten_masses`. Never
    wider than what was seen.
    Source: Migacz 2017, "8-bit Inference with TensorRT", GTC 2017 session 7310, slides 26–38.
    """

    bins: int = 2048
    levels: int = 256

    def __post_init__(self) -> None:
        if self.levels < 4 or self.bins < self.levels:
            raise ValueError(f"entropy needs 4 levels or more, and as many bins; not {self.levels} and {self.bins}")
        self._signed, self._size = Histogram(2), Histogram(self.bins)

    def update(self, x: torch.Tensor) -> None:
        """See one batch, of any shape. Raises EdgekdError for NaN or infinity."""
        self._signed.update(x)
        self._size.update(x.abs())

    def range(self) -> tuple[float, float]:
        """(minimum, maximum). Raises EdgekdError where nothing was seen."""
        low, high = self._signed.minimum, self._signed.maximum
        if self._signed.empty:
            raise EdgekdError("entropy: no values were observed", hint="calibrate with one batch or more")
        levels = self.levels if low >= 0 or high <= 0 else self.levels // 2
        threshold = best_bins(flatten_masses(self._size.counts, levels), levels) * self._size.width
        return max(low, -threshold), min(high, threshold)


def flatten_masses(counts: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Counts where each bin that holds a point mass holds what the fuller of its neighbours holds.

    A point mass is more than 1 / levels of all values, and more than twice either neighbour: zeros behind a ReLU, the
    background of an image, what a convolution makes of it. Rounding moves such a value to the nearest integer like any
    other, but in the histogram it is spread over the whole level, a divergence so large that the search would rather clip
    all the rest. NVIDIA's pytorch-quantization does this for zero alone: `bins[0] = bins[1]`, calib/histogram.py.

    >>> flatten_masses(np.array([90.0, 4.0, 3.0, 2.0, 1.0, 0.0]), levels=4)
    array([4., 4., 3., 2., 1., 0.])
    """
    padded = np.pad(counts, 1)
    neighbour = np.maximum(padded[:-2], padded[2:])
    mass = (counts > counts.sum() / levels) & (counts > 2 * neighbour)
    return np.where(mass, neighbour, counts)


def best_bins(counts: NDArray[np.float64], levels: int) -> int:
    """How many bins to keep, from all of them down to `levels`, for the least divergence; the widest of equals."""
    candidates = range(counts.size, levels - 1, -STRIDE)
    return min(candidates, key=lambda kept: divergence(counts, kept, levels), default=counts.size)


def divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """KL(P ‖ Q) in nats where the first `kept` bins are quantized to `levels`; infinite where Q lacks what P has.

    >>> round(divergence(np.array([1.0, 1.0, 2.0, 0.0]), kept=4, levels=2), 6)  # Q = P: merging loses nothing
    0.0
    >>> round(divergence(np.array([1.0, 3.0, 0.0, 4.0]), kept=4, levels=2), 6)  # (1/8) ln(1/2) + (3/8) ln(3/2)
    0.065406
    """
    inside = counts[:kept]
    p = inside.copy()
    p[-1] += counts[kept:].sum()
    held = (p > 0).astype(np.float64)
    starts = -(-np.arange(levels) * kept // levels)  # the first bin of each level: ceil(level · kept / levels)
    mass, filled = np.add.reduceat(inside, starts), np.add.reduceat(held, starts)
    level_of = np.arange(kept) * levels // kept
    q = held * (mass / np.maximum(filled, 1.0))[level_of]
    if inside.sum() == 0 or np.any((p > 0) & (q == 0)):
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))
