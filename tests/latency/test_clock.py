"""The clock on sessions whose time is known, on clocks that misbehave, and on a real one."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from edgekd.backend import Array, Session, Signature
from edgekd.latency.clock import (
    Block,
    ClockError,
    Noise,
    VirtualClock,
    calls_per_sample,
    no_collection,
    resolution,
    time_block,
    warm_up,
)


class Timed(Session):
    """Each call moves its clock by the next of `seconds`."""

    def __init__(self, seconds: Callable[[int], float], clock: Callable[[], int] | None = None) -> None:
        self.calls, self.now = 0, 0
        self._seconds = seconds
        super().__init__(Signature((), ()), clock or (lambda: self.now))

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        self.now += round(self._seconds(self.calls) * 1e9)
        self.calls += 1
        return []

    def release(self) -> None:
        pass


def blocks(session: Session) -> Block:
    return partial(time_block, session, [])


def test_samples_are_exact_seconds_of_each_call() -> None:
    session = Timed(lambda n: [0.001, 0.002, 0.0005][n % 3])
    assert time_block(session, [], 4) == [0.001, 0.002, 0.0005, 0.001]
    assert time_block(Timed(lambda n: 0.001 * (n % 2 + 1)), [], 3, repeat=2) == [0.0015, 0.0015, 0.0015]


def test_warm_up_waits_for_a_steady_median() -> None:
    """A step (30 calls at 3 ms, then 1 ms) and a slope from 5 ms to 1 ms over 40 calls: neither is taken for the end."""
    for session in (
        Timed(lambda n: 0.003 if n < 30 else 0.001),
        Timed(lambda n: 0.001 * max(1.0, 5 - 0.1 * n)),
    ):
        found = warm_up(blocks(session))
        assert found.steady
        assert found.median == 0.001
        assert found.calls == session.calls > 45


def test_warm_up_of_a_steady_engine_takes_a_tenth_of_a_second() -> None:
    found = warm_up(blocks(Timed(lambda n: 0.001)))
    assert (found.steady, found.median, found.calls) == (True, 0.001, 2 + 10 * 10)
    assert found.seconds == pytest.approx(0.102)
    assert warm_up(blocks(Timed(lambda n: 0.001)), least=0.0).calls == 2 + 3 * 10


def test_warm_up_gives_up_at_its_limit_and_says_so() -> None:
    found = warm_up(blocks(Timed(lambda n: 0.001 * 1.02**n)), limit=0.5)
    assert not found.steady
    assert 0.5 <= found.seconds < 2.0


def test_warm_up_calls_a_slow_engine_no_more_than_it_must() -> None:
    assert warm_up(blocks(Timed(lambda n: 5.0)), limit=2.0).calls == 3
    once_slow = warm_up(blocks(Timed(lambda n: 8.0 if n == 0 else 0.001)), limit=2.0)
    assert (once_slow.steady, once_slow.median, once_slow.calls) == (True, 0.001, 2 + 10 * 10)


def test_warm_up_of_an_engine_that_takes_no_time_ends() -> None:
    found = warm_up(blocks(Timed(lambda n: 0.0)))
    assert (found.steady, found.median) == (False, 0.0)
    assert found.calls < 20_000


def test_the_first_calls_are_in_no_window() -> None:
    assert warm_up(blocks(Timed(lambda n: 9.9 if n < 2 else 0.001)), limit=100).steady


def test_a_clock_that_went_backwards_once_costs_a_repeated_block() -> None:
    readings = itertools.chain([0, 10, 20, 5], itertools.count(100, 7))
    session = Timed(lambda n: 0.0, lambda: next(readings))
    assert time_block(session, [], 3) == [7e-9, 7e-9, 7e-9]
    assert session.calls == 6


def test_a_clock_that_goes_on_going_backwards_is_an_error() -> None:
    readings = itertools.count(0, -1)
    with pytest.raises(ClockError, match="went backwards") as caught:
        time_block(Timed(lambda n: 0.0, lambda: next(readings)), [], 3)
    assert "clock source" in caught.value.hint


def test_a_clock_that_stands_still_is_an_error() -> None:
    with pytest.raises(ClockError, match="stands still"):
        resolution(lambda: 12345)
    with pytest.raises(ClockError, match="took no time"):
        calls_per_sample(blocks(Timed(lambda n: 0.0, VirtualClock(0.0, Noise()))), 1e-9)


def test_a_coarse_clock_gets_several_calls_per_sample() -> None:
    """A clock of 1 ms steps that also moves a step with every reading, an engine of 0.3 ms: 100 steps need 334 calls."""
    reads = itertools.count()
    session = Timed(lambda n: 0.0003)
    session.clock = lambda: (session.now // 1_000_000) * 1_000_000 + next(reads) // 1000 * 1_000_000
    assert resolution(session.clock) == 0.001
    repeat = calls_per_sample(blocks(session), 0.001)
    assert repeat >= 330
    assert time_block(session, [], 1, repeat)[0] == pytest.approx(0.0003, rel=0.02)


def test_a_real_clock_times_a_real_wait() -> None:
    assert 0 < resolution(time.perf_counter_ns) < 1e-3

    class Waits(Timed):
        def compute(self, inputs: Sequence[Array]) -> list[Array]:
            time.sleep(0.003)
            return []

    session = Waits(lambda n: 0.0, time.perf_counter_ns)
    assert calls_per_sample(blocks(session), resolution(session.clock)) == 1
    assert all(0.003 <= seconds < 1.0 for seconds in time_block(session, [], 5))


def test_the_garbage_collector_is_off_inside_and_back_afterwards() -> None:
    assert gc.isenabled()
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
