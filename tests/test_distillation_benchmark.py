"""What benchmarks/distillation.py computes by itself: intervals of paired runs, and tones of a known pitch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.distillation_pitch import BINS, LOWEST, RATE, STEP, bins, cents_of, near, tones
from benchmarks.paired import gain, interval, shown, spread


def test_the_interval_is_students() -> None:
    """By hand: mean 2, deviation 1, t of two degrees of freedom at 97.5% is 4.302653 (any printed table), over √3."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert interval([0.5]) == (0.5, -math.inf, math.inf)


def test_runs_are_paired_by_their_seeds() -> None:
    base = [{"seed": 0, "test": 90.0}, {"seed": 1, "test": 80.0}, {"seed": 2, "test": 70.0}]
    runs = [{"seed": 2, "test": 71.0}, {"seed": 0, "test": 92.0}, {"seed": 9, "test": 0.0}]
    mean, low, high = gain(runs, base)
    assert mean == pytest.approx(1.5) and low < 0 < high
    assert math.isnan(gain([{"seed": 9, "test": 1.0}], base)[0])
    assert shown((0.5, 0.1, 0.9)) == "+0.50 (+0.10 to +0.90)"
    assert (shown((0.5, -math.inf, math.inf)), shown((math.nan,) * 3), spread([1.0, 3.0])) == (
        "+0.50",
        "–",
        "2.00 ± 1.41",
    )


def test_tones_have_the_pitch_that_is_told() -> None:
    """Harmonics of that pitch explain more of a frame than those a semitone above or below (least squares, no CREPE)."""
    frames, cents = tones(30, seed=5)
    time = (np.arange(frames.shape[1]) - frames.shape[1] / 2) / RATE

    def left(frame: np.ndarray, f0: float) -> float:
        turns = 2 * np.pi * f0 * np.outer(time, np.arange(1, 1 + min(24, int(0.45 * RATE / f0))))
        comb = np.hstack([np.cos(turns), np.sin(turns)])
        return float(np.square(frame - comb @ np.linalg.lstsq(comb, frame, rcond=None)[0]).sum())

    f0 = 10 * 2 ** (cents / 1200)
    right = [
        left(frame, f) < min(left(frame, f * 2 ** (semitone / 12)) for semitone in (-1, 1))
        for frame, f in zip(frames, f0, strict=True)
    ]
    assert np.mean(right) >= 0.9
    assert frames.dtype == np.float32 and np.allclose(frames.mean(1), 0, atol=1e-4) and np.allclose(frames.std(1), 1)


def test_a_pitch_is_read_between_bins() -> None:
    """A peak halfway between bins 100 and 101, by hand: 1997.379 + 20 · 100.5."""
    logits = np.full((2, BINS), -20.0)
    logits[0, [100, 101]] = 3.0
    logits[1, 0] = 9.0
    assert cents_of(logits) == pytest.approx([LOWEST + STEP * 100.5, LOWEST], abs=0.01)
    assert bins(np.array([LOWEST + 31.0, 0.0])).tolist() == [2, 0]
    assert near(logits, np.array([102, 3])) == 0.5
