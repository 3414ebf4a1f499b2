"""The range whose 8-bit grid loses least: rounding inside it and clipping outside it, weighed by the histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.errors import EdgekdError
from edgekd.quant.histogram import Histogram

__all__ = ["Mse"]

STEPS = 17  # candidates for each end, in each round of the search
ROUNDS = 4  # each round looks at an eighth of the span of the one before


@dataclass
class Mse:
    """Range [a, b] that minimises Σ n_i (x_i − Q(x_i))², x_i the bins' centres, n_i their counts, Q the affine grid.

    Q is the whole quantizer: the range widened to hold zero, the zero point rounded, values clipped to `levels` integers.
    Searched coarse to fine over both ends, each between zero and the extreme that was seen.
    Source: Nagel et al. 2021, arXiv 2106.08295, section 3.1 "Mean squared error (MSE)".
    """

    bins: int = 2048
    levels: int = 256

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"a grid needs 2 levels or more, not {self.levels}")
        self._histogram = Histogram(self.bins)

    def update(self, x: torch.Tensor) -> None:
        """See one batch, of any shape. Raises EdgekdError for NaN or infinity."""
        self._histogram.update(x)

    def range(self) -> tuple[float, float]:
        """(minimum, maximum). Raises EdgekdError where nothing was seen."""
        seen = self._histogram
        if seen.empty:
            raise EdgekdError("mse: no values were observed", hint="calibrate with one batch or more")
        if seen.minimum == seen.maximum:
            return seen.minimum, seen.maximum
        held = seen.counts > 0
        x, count = np.clip(seen.centres[held], seen.minimum, seen.maximum), seen.counts[held]
        full = np.array([min(seen.minimum, 0.0), max(seen.maximum, 0.0)])
        best, share = np.array([1.0, 1.0]), 1.0
        for _ in range(ROUNDS):
            ends = [_candidates(centre, share) if end else np.zeros(1) for centre, end in zip(best, full, strict=True)]
            pairs = np.stack(np.meshgrid(*ends), -1).reshape(-1, 2)
            pairs = np.concatenate([best[None], pairs[pairs.sum(1) > 0]])
            best, share = pairs[np.argmin(_errors(x, count, pairs * full, self.levels))], share / 8
        low, high = best * full
        return max(float(low), seen.minimum), min(float(high), seen.maximum)


def _candidates(centre: float, share: float) -> NDArray[np.float64]:
    """STEPS fractions of the extreme around `centre`, in (0, 1]; the first round's are all of (0, 1]."""
    if share == 1.0:
        return np.linspace(1 / STEPS, 1.0, STEPS)
    return np.unique(np.clip(np.linspace(centre - share / 2, centre + share / 2, STEPS), 1e-6, 1.0))


def _errors(
    x: NDArray[np.float64], count: NDArray[np.float64], ranges: NDArray[np.float64], levels: int
) -> NDArray[np.float64]:
    """Summed squared error of each range; x, count [bins], ranges [candidates, 2] → [candidates]."""
    found = np.empty(len(ranges))
    for i, (low, high) in enumerate(ranges):
        scale = (high - low) / (levels - 1)
        zero = np.round(-low / scale)
        rounded = np.clip(np.round(x / scale) + zero, 0, levels - 1)
        found[i] = np.dot(count, (x - (rounded - zero) * scale) ** 2)
    return found
