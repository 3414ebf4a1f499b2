"""Sounds as inputs: frames, a window, and the mel spectrum, in one order of operations, so that C++ gives the same bits.

cmake/src/audio.cpp computes the same. Tables come from the C library's cos, pow and log10, through `math`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UserError

WINDOWS = ("hann", "none")
Floats = NDArray[np.float64]


def frames(samples: Floats, length: int, hop: int, window: str) -> Floats:
    """[n] → [frames, length]: as many whole frames as there are, `hop` samples apart, each times the window.

    No padding: frame i is samples i · hop to i · hop + length. Raises UserError for fewer samples than one frame.
    The Hann window is the periodic one, ½ − ½ cos(2πn / length): Harris 1978, doi 10.1109/PROC.1978.10837, section V.C.
    """
    if len(samples) < length:
        raise UserError(f"{len(samples)} samples are less than one frame of {length}")
    starts = np.arange(0, len(samples) - length + 1, hop)
    found: Floats = samples[starts[:, None] + np.arange(length)]
    if window == "hann":
        found = found * np.array([0.5 - 0.5 * math.cos(2.0 * math.pi * i / length) for i in range(length)])
    return found


def power(framed: Floats, size: int) -> Floats:
    """[frames, length] → [frames, size / 2 + 1]: |DFT|² of each frame, filled up with zeros to `size`, a power of two.

    Source: Cooley, Tukey 1965, doi 10.1090/S0025-5718-1965-0178586-1, with radix 2 and decimation in time.
    """
    bits = size.bit_length() - 1
    order = [int(f"{i:0{bits}b}"[::-1], 2) if bits else 0 for i in range(size)]
    real = np.pad(framed, ((0, 0), (0, size - framed.shape[1])))[:, order]
    imaginary = np.zeros_like(real)
    span = 2
    while span <= size:
        half = span // 2
        cosine = np.array([math.cos(-2.0 * math.pi * k / span) for k in range(half)])
        sine = np.array([math.sin(-2.0 * math.pi * k / span) for k in range(half)])
        a, b = real.reshape(-1, size // span, span), imaginary.reshape(-1, size // span, span)
        x = a[..., half:] * cosine - b[..., half:] * sine
        y = a[..., half:] * sine + b[..., half:] * cosine
        real = np.concatenate([a[..., :half] + x, a[..., :half] - x], axis=-1).reshape(-1, size)
        imaginary = np.concatenate([b[..., :half] + y, b[..., :half] - y], axis=-1).reshape(-1, size)
        span *= 2
    kept = slice(0, size // 2 + 1)
    return real[:, kept] * real[:, kept] + imaginary[:, kept] * imaginary[:, kept]


def filters(bins: int, size: int, rate: float, low: float, high: float) -> Floats:
    """[size / 2 + 1, bins]: triangles that overlap by half, their corners equally far apart in mel, peaks of 1.

    Source: Davis, Mermelstein 1980, doi 10.1109/TASSP.1980.1163420, with mel = 2595 log₁₀(1 + f / 700) of O'Shaughnessy
    1987, as in HTK.
    """
    least, most = (2595.0 * math.log10(1.0 + f / 700.0) for f in (low, high))
    corners = [700.0 * (10.0 ** ((least + (most - least) * i / (bins + 1)) / 2595.0) - 1.0) for i in range(bins + 2)]
    found = np.zeros((size // 2 + 1, bins))
    for k in range(size // 2 + 1):
        f = k * rate / size
        for b in range(bins):
            left, centre, right = corners[b : b + 3]
            found[k, b] = max(0.0, min((f - left) / (centre - left), (right - f) / (right - centre)))
    return found


def mel(framed: Floats, size: int, weights: Floats) -> Floats:
    """[frames, length] → [frames, bins]: the power spectrum weighted by each filter, summed from low to high frequency."""
    spectrum = power(framed, size)
    found = np.zeros((len(framed), weights.shape[1]))
    for k in range(len(weights)):
        found += spectrum[:, k : k + 1] * weights[k]
    return found
