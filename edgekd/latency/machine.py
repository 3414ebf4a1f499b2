"""The machine under the clock: which cores to pin to, how busy they are, how much memory this process took at most."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

CPUS = Path("/sys/devices/system/cpu")


def _first_sibling(cpu: int) -> int:
    """The lowest-numbered logical CPU of the physical core of `cpu`; `cpu` itself where the system does not tell."""
    try:
        listed = (CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
    except OSError:
        return cpu
    match = re.match(r"\d+", listed)
    return int(match[0]) if match else cpu


def choose_cores(threads: int, used: Sequence[float] = ()) -> list[int]:
    """The `threads` CPUs to pin to: of those allowed, one per physical core first, the least used (`used[cpu]`) first.

    Among equals the highest number wins, since interrupts tend to land on CPU 0. Empty where the system cannot pin.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = sorted(os.sched_getaffinity(0))

    def cost(cpu: int) -> tuple[bool, float, int]:
        twin = _first_sibling(cpu)
        return twin != cpu and twin in allowed, used[cpu] if cpu < len(used) else 0.0, -cpu

    return sorted(sorted(allowed, key=cost)[: max(1, threads)])


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """This process (and the threads that it starts) on `cores` only, and back afterwards. No cores: as it is."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy(interval: float = 0.2) -> tuple[float, list[float]]:
    """Share of all CPU time in use during the next `interval` seconds, 0 to 1: the whole machine's and per CPU."""
    per_cpu = [percent / 100 for percent in psutil.cpu_percent(interval, percpu=True)]
    return sum(per_cpu) / len(per_cpu), per_cpu


def wait_until_quiet(
    limit: float, quiet: float, waiting: Callable[[float], None], look: Callable[[], tuple[float, list[float]]] = busy
) -> tuple[float, list[float]]:
    """Look at the load until at most the share `quiet` is in use, or `limit` seconds are over; the last look.

    `waiting(share)` is told of every look that was too busy.
    """
    end = time.monotonic() + limit
    while True:
        share, per_cpu = look()
        if share <= quiet:
            return share, per_cpu
        waiting(share)
        if time.monotonic() >= end:
            return share, per_cpu


class Others:
    """The share of the machine that other processes used since this was made: a noisy neighbour shows here."""

    def __init__(self) -> None:
        self._start = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        machine = psutil.cpu_times()._asdict()
        whole = sum(seconds for kind, seconds in machine.items() if not kind.startswith("guest"))
        own = os.times()
        return whole, machine["idle"] + machine.get("iowait", 0.0), own.user + own.system

    def share(self) -> float:
        """From 0 to 1; 0 if too little time has passed for the system's counters to tell."""
        whole, idle, own = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return min(1.0, max(0.0, (whole - idle - own) / whole)) if whole > 0.05 else 0.0


class Heat:
    """What the system tells of the chip's temperature and clock."""

    def read(self) -> dict[str, float | None]:
        """{"temperature": °C of the hottest sensor, "frequency": Hz, mean over the cores}; None where it does not tell."""
        sensors: dict[str, list[Any]] = getattr(psutil, "sensors_temperatures", dict)() or {}
        degrees = [found.current for those in sensors.values() for found in those if found.current]
        clock = getattr(psutil, "cpu_freq", lambda: None)()
        return {
            "temperature": max(degrees, default=None),
            "frequency": clock.current * 1e6 if clock and clock.current else None,
        }


def peak_memory() -> int:
    """Bytes of the largest resident set that this process ever had.

    Read from VmHWM where there is one: Linux's ru_maxrss starts at the size of the process that forked this one.
    """
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
