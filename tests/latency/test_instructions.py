"""Counting by `perf stat`: what it says is read, and it counts what runs between on and off, where it can."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from latency.test_race import simulated

from edgekd.latency import instructions
from edgekd.latency.instructions import counted, read_count, unavailable


def test_perfs_lines_are_read() -> None:
    assert read_count("# started on today\n\n81234567,,instructions:u,5012345,100.00,,\n") == 81_234_567
    assert read_count("12.5,msec,task-clock,12500000,100.00,0.9,CPUs utilized\n") == 12.5
    assert read_count("<not counted>,,instructions:u,0,100.00,,\n") is None
    assert read_count("") is None


def test_without_perf_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert unavailable() == "perf is not installed"


def test_an_event_that_cannot_be_counted_is_named() -> None:
    if shutil.which("perf"):
        assert unavailable("no-such-event") == "perf stat cannot count no-such-event here"


def test_it_counts_what_runs_and_nothing_else() -> None:
    """Milliseconds of this process on a CPU, which perf counts without hardware: ten times the work, several times the count."""
    if unavailable("task-clock"):
        pytest.skip("apt-get install linux-perf")

    def work(count: int) -> float:
        found = counted(lambda: sum(i * i for i in range(count)) and None, "task-clock")
        assert found is not None
        return found

    little = min(work(100_000) for _ in range(3))
    assert 4 * little < work(2_000_000) < 400 * little


def test_a_simulated_device_has_no_instructions(tmp_path: Path) -> None:

    engine = simulated(tmp_path, "a", 0.001)
    asked = {"engine": str(engine), "inputs": None, "cores": []}
    assert instructions.instructions(asked, lambda _: None) == {"instructions": None}
