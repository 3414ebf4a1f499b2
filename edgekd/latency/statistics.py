"""From raw samples to what may be said: median, p90, p99, their intervals, and the ratio of two engines.

Samples are `[process, round, call]` in seconds. Calls of one round share what the machine did at that moment, and rounds
of one process share its memory layout, so neither calls nor rounds are independent: intervals come from resampling
blocks within processes, and from how far the processes lie apart. Three processes tell little of that: where a narrow
interval is wanted, more processes narrow it sooner than more rounds. No outlier is ever dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
CONFIDENCE = 0.95
CLAIM = 0.99
RESAMPLES = 2000


@dataclass(frozen=True)
class Latency:
    """Seconds. `low` to `high` is the median's 95% interval, `p90_low` to `p90_high` the p90's. None: too few samples."""

    median: float
    low: float
    high: float
    p90: float | None
    p90_low: float | None
    p90_high: float | None
    p99: float | None
    count: int


@dataclass(frozen=True)
class Ratio:
    """How many times as long one engine takes as another, with its 95% interval; below 1 is faster."""

    point: float
    low: float
    high: float

    @property
    def excludes_one(self) -> bool:
        """Whether the two differ: 1 lies outside the interval."""
        return self.low > 1 or self.high < 1


@cache
def least_samples(percentile: float, confidence: float = CLAIM) -> int:
    """The fewest samples n from which a percentile can be claimed.

    The claim "at most x lie above the p-th percentile" is safe when so few samples above the bound would be unlikely,
    had the percentile been higher. With one sample above it (as MLPerf's load generator allows at least), n is the least
    for which P(Binomial(n, 1-p) <= 1) = p^n + n (1-p) p^(n-1) <= 1 - confidence.

    Source: MLCommons inference, loadgen/early_stopping.cc: odds = I_p(h, t+1) <= 1 - c for h passing and t = 1 failing
    queries, n = h + t ("Processed at least 64 queries" at 90%, "662" at 99%).

    >>> least_samples(0.90), least_samples(0.99)
    (64, 662)
    """
    n = 2
    while percentile**n + n * (1 - percentile) * percentile ** (n - 1) > 1 - confidence:
        n += 1
    return n


def median(samples: Samples) -> float:
    """The median of all samples, whatever their shape; with an even number, the mean of the middle two."""
    return float(np.median(samples))


def percentile(samples: Samples, share: float) -> float | None:
    """The least sample that at least `share` of all samples do not exceed (nearest rank); None if too few to claim it."""
    if samples.size < least_samples(share):
        return None
    return float(np.quantile(samples, share, method="inverted_cdf"))


def p90(samples: Samples) -> float | None:
    """The 90th percentile, from 64 samples on; below that None."""
    return percentile(samples, 0.90)


def p99(samples: Samples) -> float | None:
    """The 99th percentile, from 662 samples on; below that None."""
    return percentile(samples, 0.99)


def _within(freedom: int, t: float) -> float:
    """P(|T| <= t) of Student's t.

    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4: A(t|v) as a finite series in the cosine of atan(t / sqrt(v)).
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for k in range(1, (freedom + 1) // 2 if odd else freedom // 2 + 1):
        total += term
        term *= cosine**2 * ((2 * k) / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@cache
def student_t(freedom: int, probability: float) -> float:
    """The quantile of Student's t: the t with P(T <= t) = `probability` > 0.5, by bisection."""
    low, high = 0.0, 1.0
    while _within(freedom, high) < 2 * probability - 1:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(freedom, middle) < 2 * probability - 1 else (low, middle)
    return (low + high) / 2


def student_tail(freedom: int, t: float) -> float:
    """P(T > t) of Student's t, for t of at least 0."""
    return max(0.0, (1 - _within(freedom, t)) / 2)


def _interval(point: float, per_process: NDArray[np.float64], resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% interval of `point`, from logs: `per_process [process]`, and `resampled [resample, process]` over blocks.

    On each side the wider of two. Blocks drawn with replacement within each process (percentiles): what more rounds would
    have told. Student's t over the processes, mean ± t s / sqrt(n): what more processes would have told; three processes
    resampled as they are would give their extremes at most, which hold the mean of normal ones 75% of the time. One
    process alone says nothing of others: the interval is then of that process only.

    Source: Efron 1979, doi 10.1214/aos/1176344552 (bootstrap); Student 1908, doi 10.1093/biomet/6.1.1.
    """
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile((resampled - per_process).mean(axis=1), tails)
    processes, spread = len(per_process), 0.0
    if processes > 1:
        spread = student_t(processes - 1, tails[1]) * float(per_process.std(ddof=1)) / math.sqrt(processes)
    return point * math.exp(min(low, -spread, 0.0)), point * math.exp(max(high, spread, 0.0))


def _resampled_quantiles(
    blocks: Samples, shares: tuple[float, ...], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Quantiles `[share, resample]` (nearest rank) of the calls in blocks `[round, call]` drawn with replacement.

    All samples are sorted once. `below[round, i]` counts a round's samples among the i + 1 smallest, so a resample's rank
    of any value is the sum of its rounds' counts, and each quantile is found by bisection, for all resamples at once.
    """
    rounds, calls = blocks.shape
    order = np.argsort(blocks, axis=None, kind="stable")
    below = np.cumsum(order // calls == np.arange(rounds)[:, None], axis=1, dtype=np.int32)
    drawn = random.integers(0, rounds, (resamples, rounds))
    found = np.empty((len(shares), resamples))
    for row, share in enumerate(shares):
        rank = math.ceil(share * blocks.size - 1e-9)
        low, high = np.zeros(resamples, dtype=np.int64), np.full(resamples, blocks.size - 1)
        while (low < high).any():
            middle = (low + high) // 2
            reached = below[drawn, middle[:, None]].sum(axis=1) >= rank
            low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
        found[row] = blocks.ravel()[order[low]]
    return found


def latency(samples: Samples, seed: int = 0, resamples: int = RESAMPLES) -> Latency:
    """What `samples [process, round, call]` in seconds say, with 95% bootstrap intervals. Raises ValueError if none."""
    samples = _checked(samples)
    middle, tail = median(samples), p90(samples)
    claimed = {0.50: middle} if tail is None else {0.50: middle, 0.90: tail}
    random = np.random.default_rng(seed)
    boot = np.stack([_resampled_quantiles(each, tuple(claimed), resamples, random) for each in samples], axis=2)
    bounds: dict[float, tuple[float, float]] = {}
    for row, (share, point) in enumerate(claimed.items()):
        own = np.log(np.quantile(samples, share, axis=(1, 2), method="inverted_cdf"))
        bounds[share] = _interval(point, own, np.log(boot[row]))
    low, high = bounds[0.50]
    p90_low, p90_high = bounds.get(0.90, (None, None))
    return Latency(middle, low, high, tail, p90_low, p90_high, p99(samples), samples.size)


def ratio(a: Samples, b: Samples, seed: int = 0, resamples: int = RESAMPLES) -> Ratio:
    """Latency of a over latency of b: paired log-ratios of block medians, with a 95% bootstrap interval.

    `a` and `b` are `[process, round, call]` of one race: round r of process p of both ran side by side, so what the
    machine did then cancels. Point: exp of the mean over processes of the median over rounds of
    log(median(a[p, r]) / median(b[p, r])). Raises ValueError if they do not pair.

    >>> import numpy as np
    >>> ratio(np.full((2, 3, 4), 0.5), np.full((2, 3, 9), 0.25))
    Ratio(point=2.0, low=2.0, high=2.0)
    """
    a, b = _checked(a), _checked(b)
    if a.shape[:2] != b.shape[:2]:
        raise ValueError(f"samples of {a.shape[:2]} and {b.shape[:2]} processes and rounds do not pair")
    logs = np.log(np.median(a, axis=2) / np.median(b, axis=2))
    processes, rounds = logs.shape
    random = np.random.default_rng(seed)
    drawn = random.integers(0, rounds, (resamples, processes, rounds))
    boot = np.median(np.take_along_axis(logs[None], drawn, axis=2), axis=2)
    own = np.median(logs, axis=1)
    point = math.exp(own.mean())
    return Ratio(point, *_interval(point, own, boot))


def _checked(samples: Samples) -> Samples:
    samples = np.asarray(samples, dtype=np.float64)
    if samples.ndim != 3 or samples.size == 0:
        raise ValueError(f"samples must be [process, round, call] and not empty, got shape {samples.shape}")
    if not (np.isfinite(samples).all() and (samples > 0).all()):
        raise ValueError("samples must be finite and more than 0 seconds")
    return samples
