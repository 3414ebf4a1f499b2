"""Cores, load and memory of this very process."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from edgekd.latency import machine


def test_pinning_holds_inside_and_goes_back() -> None:
    before = os.sched_getaffinity(0)
    cores = machine.choose_cores(1)
    assert len(cores) == 1
    assert set(cores) <= before
    with machine.pinned(cores):
        assert os.sched_getaffinity(0) == set(cores)
    assert os.sched_getaffinity(0) == before
    with machine.pinned([]):
        assert os.sched_getaffinity(0) == before


def test_cores_are_physical_ones_first_then_the_least_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_first_sibling", lambda cpu: cpu % 2)  # 0 and 2 are one core, 1 and 3 another
    assert machine.choose_cores(1) == [1]
    assert machine.choose_cores(1, [0.0, 0.9, 0.0, 0.0]) == [0]
    assert machine.choose_cores(2, [0.0, 0.9, 0.0, 0.0]) == [0, 1]
    assert machine.choose_cores(3) == [0, 1, 3]
    assert machine.choose_cores(9) == [0, 1, 2, 3]


def test_a_busy_machine_is_waited_for_up_to_the_limit() -> None:
    told: list[float] = []
    looks = iter([0.9, 0.6, 0.1])
    share, _ = machine.wait_until_quiet(5.0, 0.2, told.append, lambda: (next(looks), []))
    assert share == 0.1
    assert told == [0.9, 0.6]
    assert machine.wait_until_quiet(0.0, 0.2, told.append, lambda: (0.8, [0.8])) == (0.8, [0.8])


def test_load_is_a_share() -> None:
    share, per_cpu = machine.busy(0.1)
    assert 0 <= share <= 1
    assert len(per_cpu) == os.cpu_count()


def test_own_work_is_not_others() -> None:
    """However busy the machine is, what this loop itself used is not counted (to within the counters' 10 ms)."""
    others, wall, own = machine.Others(), time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < 0.5:
        pass
    share, own = others.share(), time.process_time() - own
    whole = (time.perf_counter() - wall) * (os.cpu_count() or 1)
    assert 0 <= share <= 1 - own / whole + 0.06


def test_peak_memory_grows_with_what_is_touched() -> None:
    before = machine.peak_memory()
    assert before > 5_000_000
    held = np.ones(before + 50_000_000, dtype=np.uint8)
    assert machine.peak_memory() - before > 40_000_000
    assert held[-1] == 1
