"""Runs with several seeds told and compared: mean and deviation, and what one arm has over another with the same seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation.

    >>> spread([1.0, 2.0, 3.0]), spread([1.0], 1)
    ('2.00 ± 1.00', '1.0')
    """
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the 95% interval of the mean of paired differences, by Student's t; infinite for a single one.

    Source: Student 1908, doi 10.1093/biomet/6.1.1.
    """
    from scipy.stats import t

    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return mean, -math.inf, math.inf
    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return mean, mean - half, mean + half


def gain(
    runs: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]], key: str = "test"
) -> tuple[float, float, float]:
    """`interval` of what runs {"seed", key} have over those of the same seeds of the base; not a number where no seed is in both."""
    theirs = {run["seed"]: run[key] for run in base}
    pairs = [run[key] - theirs[run["seed"]] for run in runs if run["seed"] in theirs]
    return interval(pairs) if pairs else (math.nan, math.nan, math.nan)


def shown(found: tuple[float, float, float]) -> str:
    """A gain with its interval.

    >>> shown((0.5, 0.1, 0.9)), shown((0.5, -math.inf, math.inf)), shown((math.nan, math.nan, math.nan))
    ('+0.50 (+0.10 to +0.90)', '+0.50', '–')
    """
    mean, low, high = found
    if math.isnan(mean):
        return "–"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})" if math.isfinite(low) else f"{mean:+.2f}"
