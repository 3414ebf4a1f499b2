"""The clock: every session is timed here and the same way, whatever its backend.

Warm-up until the rolling median stands still, then blocks of calls, each call between two readings of the session's
clock, with the garbage collector off. Raw samples are kept, in seconds; none is ever dropped.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from edgekd.backend import Array, Session

WINDOW_SECONDS = 0.01  # a warm-up window lasts at least this long, and
WINDOW_CALLS = 5  # has at least so many calls,
MOST_CALLS = 10_000  # and at most so many.
WARM_SECONDS = 0.1  # warming up takes at least this long: clocks and caches of the machine need it;
CALM_WINDOWS = 3  # steady: so many windows in a row whose medians
CALM = 0.03  # lie within this share of their own median.
COARSE = 100  # a sample is at least so many steps of the clock long
RETRIES = 3  # blocks measured again because the clock went backwards, before giving up

Block = Callable[[int, int], list[float]]
"""Seconds of so many samples of an engine, each the mean of so many calls in a row."""


class ClockError(EdgekdError):
    """The clock stands still or went backwards, so no time that it gives can be believed."""


@dataclass(frozen=True)
class Noise:
    """A simulated device's noise. All zero: every call takes exactly the given seconds.

    `spread`, `process`: standard deviation of the log of a call's, and of a whole process's, factor. `outliers`: the
    probability of a call that takes `outlier_factor` times as long. `cold_calls`: so many first calls of a process take
    `cold_factor` times as long. `slow_processes`: the probability of a process that takes `slow_factor` times as long in all
    calls, so that processes are of two kinds. `backwards`: the probability of a call after which the clock reads earlier.
    `hot_after`: so many seconds into a process every call begins to take `hot_factor` times as long; 0: never.
    """

    spread: float = 0.0
    process: float = 0.0
    outliers: float = 0.0
    outlier_factor: float = 10.0
    cold_calls: int = 0
    cold_factor: float = 3.0
    slow_processes: float = 0.0
    slow_factor: float = 1.05
    backwards: float = 0.0
    hot_after: float = 0.0
    hot_factor: float = 1.5


class VirtualClock:
    """A clock that only a simulated session moves: exact seconds, no waiting. Called, it reads nanoseconds."""

    def __init__(self, seconds: float, noise: Noise, seed: int = 0) -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise EdgekdError(f"a simulated latency of {seconds} s: it must be a number of at least 0")
        self.seconds, self.noise, self.seed = seconds, noise, seed
        self.latency = 0.0
        self._now = 0
        self.restart(0)

    def restart(self, *process: int) -> None:
        """Begin the noise of a new process. The same seed and numbers give the same noise; the time goes on."""
        self._random = np.random.default_rng([self.seed, *process])
        self._factor = math.exp(self._random.normal(0.0, self.noise.process)) if self.noise.process else 1.0
        if self.noise.slow_processes and self._random.random() < self.noise.slow_processes:
            self._factor *= self.noise.slow_factor
        self._calls = 0
        self._begun = self._now

    def advance(self) -> None:
        """One call of the simulated engine: `latency` is what it took, in seconds."""
        noise, took = self.noise, self.seconds * self._factor
        if noise.spread:
            took *= math.exp(self._random.normal(0.0, noise.spread))
        if noise.outliers and self._random.random() < noise.outliers:
            took *= noise.outlier_factor
        if self._calls < noise.cold_calls:
            took *= noise.cold_factor
        if noise.hot_after and self._now - self._begun >= noise.hot_after * 1e9:
            took *= noise.hot_factor
        self._calls += 1
        self.latency = took
        back = self.noise.backwards and self._random.random() < self.noise.backwards
        self._now += round(took * (-1e9 if back else 1e9))

    def __call__(self) -> int:
        return self._now


@dataclass(frozen=True)
class WarmUp:
    """What warming up took: calls and seconds spent, whether the median stood still, and that median in seconds."""

    calls: int
    seconds: float
    steady: bool
    median: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector collects now, and is off inside."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def resolution(clock: Callable[[], int]) -> float:
    """Seconds of the clock's smallest step that can be seen by reading it over and over.

    Raises ClockError if it stands still for a million readings.
    """
    if isinstance(clock, VirtualClock):
        return 1e-9
    steps: list[int] = []
    last = clock()
    for _ in range(1_000_000):
        now = clock()
        if now > last:
            steps.append(now - last)
            if len(steps) == 20:
                break
        last = now
    if not steps:
        raise ClockError("the clock stands still: a million readings gave the same time")
    return min(steps) / 1e9


def time_block(session: Session, inputs: Sequence[Array], calls: int, repeat: int = 1) -> list[float]:
    """Seconds of `calls` samples; a sample is the mean of `repeat` calls in a row (1 unless the clock is coarse).

    A block in which the clock went backwards holds no times at all and is measured again.
    Raises ClockError if that happens too often.
    """
    clock, run, again = session.clock, session.run, range(repeat)
    for _ in range(RETRIES + 1):
        taken = [0] * calls
        for index in range(calls):
            start = clock()
            for _ in again:
                run(inputs)
            taken[index] = clock() - start
        if min(taken, default=0) >= 0:
            return [nanoseconds / (1e9 * repeat) for nanoseconds in taken]
    raise ClockError(
        f"the clock went backwards in {RETRIES + 1} blocks in a row", hint="is the system's clock source unstable?"
    )


def calls_per_sample(block: Block, step: float) -> int:
    """How many calls a sample needs to be 100 steps of the clock, `step` seconds each, long: 1 for all but the shortest engines.

    Raises ClockError if a thousand calls take no time.
    """
    calls = 1
    while True:
        taken = min(block(3, calls)) * calls
        if taken >= COARSE * step:
            return calls
        if calls >= 1000 and taken <= 0:
            raise ClockError(f"{calls} calls took no time: the clock is too coarse, or the engine does nothing")
        calls = max(2 * calls, math.ceil(calls * COARSE * step / taken) if taken > 0 else 0)


def warm_up(block: Block, limit: float = 2.0, least: float = WARM_SECONDS) -> WarmUp:
    """Call until the rolling median is steady: for `least` seconds, and three windows in a row with medians within 3% of theirs.

    The first two calls are in no window, since runtimes allocate in them. A window is at least 5 calls and 10 ms long, less
    where three such would not fit into `limit`. After windows of `limit` seconds, or 10,000 calls that took no time, it
    stops in any case and says so: not steady.
    """
    first, guess = block(2, 1)
    total, calls, spent, size = first + guess, 2, 0.0, WINDOW_CALLS
    if guess > 0:
        size = max(WINDOW_CALLS, min(math.ceil(WINDOW_SECONDS / guess), MOST_CALLS))
        size = max(1, min(size, int(limit / (CALM_WINDOWS * guess))))
    medians: list[float] = []
    while True:
        samples = block(size, 1)
        took = sum(samples)
        total, spent, calls = total + took, spent + took, calls + size
        medians.append(statistics.median(samples) or took / size)
        recent = medians[-CALM_WINDOWS:]
        middle = statistics.median(recent)
        calm = len(recent) == CALM_WINDOWS and all(abs(m - middle) <= CALM * middle for m in recent)
        if calm and spent >= min(least, limit):
            return WarmUp(calls, total, True, middle)
        if spent >= limit or (took == 0 and size >= MOST_CALLS):
            return WarmUp(calls, total, False, medians[-1])
        if took == 0:
            size = min(10 * size, MOST_CALLS)
