"""What the null backend computes, in plain integers: independent of its vectorised code and of the C++ session."""

from __future__ import annotations

import numpy as np


def split_mix(seed: int, count: int) -> list[int]:
    """SplitMix64 in plain integers."""
    drawn, mask = [], 2**64 - 1
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        drawn.append(z ^ (z >> 31))
    return drawn


def matrix(seed: int, rows: int, columns: int) -> np.ndarray:
    """What the rule says: uniform with variance 1/rows, from the 24 highest bits."""
    unit = np.array([z >> 40 for z in split_mix(seed, rows * columns)]) / 2**24
    return ((2 * unit - 1) * (3 / rows) ** 0.5).reshape(rows, columns)
