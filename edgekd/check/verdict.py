"""From raw samples to a verdict: is the candidate slower than the baseline by more than is allowed? No I/O, no clock.

Each engine is opened twice in every process, four runners that take interleaved turns in random order. What the machine
did in a round is common to all four and cancels in the round's contrasts of log block medians:

    slowdown   (candidate + candidate again) / 2 − (baseline + baseline again) / 2
    control    baseline again − baseline                              an A/A comparison: its truth is 0

Where an engine's memory lies is drawn anew whenever it is opened and moves its median by percents, so rounds of one process
do not speak for the next: the unit that is resampled is the process. More processes are added until the interval of the
slowdown lies on one side of the limit, or time is up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.latency.statistics import Ratio, Samples, student_t, student_tail

State = Literal["pass", "regressed", "undecided"]
RUNNERS = ("baseline", "baseline again", "candidate", "candidate again")
LOOKS_AT = (6, 10, 16, 26, 42, 68, 110)  # processes at each look; there is one more, when time is up
LOOKS = len(LOOKS_AT) + 1
LEAST = 3  # processes without which nothing is said
ALPHA = 0.025  # probability of "regressed" for a candidate exactly at the limit, all looks together
PASS_ALPHA = 0.05  # of "pass" for one at the limit, at a look
CONTROL_ALPHA = 0.025  # each side of the control's interval: 95%
RESAMPLES, POOL = 4000, 200


@dataclass(frozen=True)
class Rule:
    """What is allowed: a share of the baseline's latency (0.05 is 5%), and seconds below which no difference counts."""

    tolerance: float = 0.05
    floor: float = 20e-6
    alpha: float = ALPHA

    def limit(self, baseline: float) -> float:
        """The ratio above which a candidate has regressed: both tolerance and floor are exceeded there.

        >>> Rule(0.05, 20e-6).limit(1e-3), Rule(0.05, 20e-6).limit(1e-4)
        (1.05, 1.2)
        """
        return 1 + max(self.tolerance, self.floor / baseline)


@dataclass(frozen=True)
class Look:
    """What is known after so many processes. `number` counts looks from 1; latencies in seconds are medians.

    `ratio`: candidate over baseline; its lower end is where 95% end over all looks together, its upper where 95% of this
    look end. `control`: the baseline over itself, 95%. `p`: probability of so slow a candidate if its ratio were `limit`,
    times the number of looks (Bonferroni): who looks up to eight times must be eight times as sure each time.
    """

    number: int
    processes: int
    baseline: float
    candidate: float
    ratio: Ratio
    control: Ratio
    limit: float
    p: float
    state: State

    @property
    def control_fits(self) -> bool:
        """Whether the baseline, compared with itself, stays within what is to be told apart."""
        return max(self.control.high, 1 / self.control.low) <= self.limit


def wanted(number: int) -> float:
    """How many processes look `number` (from 1) waits for: infinitely many for the last, which is when time is up.

    >>> [wanted(n) for n in (1, 2, 8)]
    [6, 10, inf]
    """
    return LOOKS_AT[number - 1] if number < LOOKS else math.inf


def contrasts(samples: Mapping[str, Samples]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slowdown and control `[process, round]`, logs, of `samples [process, round, call]` of the four runners, seconds."""
    first, second, one, two = (np.log(np.median(samples[name], axis=2)) for name in RUNNERS)
    return (one + two - first - second) / 2, second - first


def resampled(logs: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Bootstrap `[resample]` of the mean over processes of the median over rounds of `logs [process, round]`.

    Hierarchical: processes are drawn with replacement, then rounds within each (from a pool of such medians a process).

    Source: Efron 1979, doi 10.1214/aos/1176344552; levels of benchmarks: Kalibera, Jones 2013, doi 10.1145/2464157.2464160.
    """
    processes, rounds = logs.shape
    drawn = random.integers(0, rounds, (POOL, processes, rounds))
    pool = np.median(np.take_along_axis(logs[None], drawn, axis=2), axis=2)
    which = random.integers(0, processes, (RESAMPLES, processes))
    return np.asarray(pool[random.integers(0, POOL, which.shape), which].mean(axis=1))


@dataclass(frozen=True, eq=False)
class Estimate:
    """A contrast's mean over processes, the standard error of that, and its bootstrap."""

    mean: float
    error: float
    freedom: int
    boot: NDArray[np.float64]

    @classmethod
    def of(cls, logs: NDArray[np.float64], random: np.random.Generator) -> Estimate:
        own = np.median(logs, axis=1)
        error = float(own.std(ddof=1)) / math.sqrt(len(own))
        return cls(float(own.mean()), error, len(own) - 1, resampled(logs, random))

    def low(self, alpha: float) -> float:
        """What the truth lies below with probability `alpha` at most: the lower of Student's t and the bootstrap's."""
        t = self.mean - student_t(self.freedom, 1 - alpha) * self.error
        return min(t, float(np.quantile(self.boot, alpha)), self.mean)

    def high(self, alpha: float) -> float:
        t = self.mean + student_t(self.freedom, 1 - alpha) * self.error
        return max(t, float(np.quantile(self.boot, 1 - alpha)), self.mean)

    def p(self, bound: float) -> float:
        """p-value of "the truth is at most `bound`": the larger of Student's t and the bootstrap's."""
        if self.mean <= bound:
            return 1.0
        tail = student_tail(self.freedom, (self.mean - bound) / self.error) if self.error > 0 else 0.0
        return max(tail, float((self.boot <= bound).mean()))


def look(samples: Mapping[str, Samples], rule: Rule, number: int = 1, seed: int = 0) -> Look:
    """Judge `samples [process, round, call]` in seconds of the four runners, at the look of this number.

    The control widens what is said of the candidate: by as much as its own interval misses 1 (then something other than
    chance tells the baseline from itself), and where it does not fit under the limit, by as far as it reaches.
    """
    random = np.random.default_rng([seed, number])
    slowdown, control = (Estimate.of(logs, random) for logs in contrasts(samples))
    baseline, candidate = (
        float(np.median(np.concatenate([samples[name].ravel() for name in names])))
        for names in (RUNNERS[:2], RUNNERS[2:])
    )
    limit = rule.limit(baseline)
    bound, low, high = math.log(limit), control.low(CONTROL_ALPHA), control.high(CONTROL_ALPHA)
    reach = max(high, -low)
    margin = max(0.0, low, -high) if reach <= bound else reach
    p = min(1.0, LOOKS * slowdown.p(bound + margin))
    lowest = slowdown.low(rule.alpha / LOOKS) - margin
    highest = slowdown.high(PASS_ALPHA) + margin
    state: State = "undecided"
    if p <= rule.alpha:
        state = "regressed"
    elif reach <= bound and highest <= bound:
        state = "pass"
    ratio = Ratio(*(math.exp(x) for x in (slowdown.mean, lowest, highest)))
    own = Ratio(*(math.exp(x) for x in (control.mean, low, high)))
    return Look(number, len(samples[RUNNERS[0]]), baseline, candidate, ratio, own, limit, p, state)


def settled(last: Look) -> Literal["pass", "regressed", "inconclusive"]:
    """The verdict when time is up: an undecided look passes where its control fits and its ratio is under the limit."""
    if last.state != "undecided":
        return last.state
    return "pass" if last.control_fits and last.ratio.point <= last.limit else "inconclusive"


def holm(p: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several hypotheses are rejected so that any false rejection among all has probability `alpha` at most.

    The smallest p-value against alpha / m, the next against alpha / (m − 1), …, until the first that is larger.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.

    >>> holm([0.01, 0.04, 0.03, 0.005], 0.05)
    [True, False, False, True]
    """
    found = [False] * len(p)
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] > alpha / (len(p) - rank):
            break
        found[index] = True
    return found
