"""Joules of a block of calls, by the machine's own counters: Intel's and AMD's RAPL, or a board's power monitor.

RAPL counts microjoules of a processor package and of its memory, with all that runs there and what it draws idle (Linux,
Documentation/power/powercap/powercap.rst; David et al. 2010, doi 10.1145/1840845.1840883). A board's INA chip tells the power of
a supply line: watts before and after a block, times its seconds. Linux lets only root read RAPL since it was found to leak
what others compute (Lipp et al. 2021, "PLATYPUS", doi 10.1109/SP40001.2021.00063). Where nothing can be read there is a reason
instead of a number.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from edgekd.latency.conditions import SYSTEM

T = TypeVar("T")

UNREADABLE = "not readable here"
SIMULATED = "a simulated device uses none"
UNTOLD = {"of": "", "why": "not told by the device"}
INPUTS = ("VDD_IN", "POM_5V_IN")
"""Lines that feed a whole Jetson board; where one is told, the others are parts of it."""


def spent(before: int, after: int, most: int) -> int | None:
    """Microjoules between two readings of a counter that begins again at zero after `most`; 0: it never does.

    None where it went backwards and could not have begun again. It is read often enough not to pass `most` twice.

    >>> spent(262_143_000_000, 171_150, 262_143_328_850), spent(5, 12, 0), spent(12, 5, 0)
    (500000, 7, None)
    """
    if after >= before:
        return after - before
    return most - before + after if most >= before else None


@final
@dataclass(frozen=True)
class Counter:
    """A zone of RAPL: a counter of microjoules."""

    name: str
    file: Path
    most: int

    def read(self) -> int:
        """Raises OSError or ValueError."""
        return int(self.file.read_text())


@final
@dataclass(frozen=True)
class Line:
    """A supply line of a board: files whose product, times `scale`, is its power in watts."""

    name: str
    files: tuple[Path, ...]
    scale: float

    def watts(self) -> float:
        """Raises OSError or ValueError."""
        found = self.scale
        for file in self.files:
            found *= float(file.read_text())
        return found


@final
@dataclass(frozen=True)
class Meter:
    """What can be read here: counters, or else supply lines, or else `why` nothing can."""

    counters: tuple[Counter, ...] = ()
    lines: tuple[Line, ...] = ()
    why: str = ""

    @property
    def of(self) -> str:
        """What is metered: "package-0, dram"."""
        return ", ".join([*(one.name for one in self.counters), *(one.name for one in self.lines)])

    def during(self, run: Callable[[], T]) -> tuple[T, float | None]:
        """What `run` gives, and the joules meanwhile; None where they could not be read."""
        if self.why:
            return run(), None
        try:
            before, watts, start = [one.read() for one in self.counters], self._watts(), time.perf_counter()
        except (OSError, ValueError):
            return run(), None
        found = run()
        try:
            seconds = time.perf_counter() - start
            after = [one.read() for one in self.counters]
            joules = (watts + self._watts()) / 2 * seconds
        except (OSError, ValueError):
            return found, None
        for one, first, last in zip(self.counters, before, after, strict=True):
            microjoules = spent(first, last, one.most)
            if microjoules is None:
                return found, None
            joules += microjoules / 1e6
        return found, joules

    def _watts(self) -> float:
        return sum(line.watts() for line in self.lines)


def mean(joules: Sequence[float]) -> float | None:
    """Of blocks of equally many calls; None where there is none. One block is short for a counter that moves every millisecond."""
    return statistics.fmean(joules) if joules else None


def said(energy: Mapping[str, Any]) -> str:
    """In words, what the joules of a race (`pipeline.measure.summary`) are of, or why there are none."""
    if energy["of"] and any(value is not None for value in energy["joules"].values()):
        return f"of {energy['of']}, with what it draws idle and for other processes"
    return str(energy["why"] or UNREADABLE)


def meter(system: Path = SYSTEM) -> Meter:
    """What tells energy on this machine, each tried once: RAPL's packages and their memory, or else a board's INA monitor."""
    counters = _zones(system / "class" / "powercap")
    lines = () if counters else _lines(system)
    if not counters and not lines:
        return Meter(why=f"{UNREADABLE}: no RAPL counter and no INA power monitor in {system}")
    try:
        for counter in counters:
            counter.read()
        for line in lines:
            line.watts()
    except (OSError, ValueError) as error:
        file = getattr(error, "filename", None) or f"{system}"
        return Meter(why=f"{UNREADABLE}: {file}: {getattr(error, 'strerror', None) or error}")
    return Meter(counters, lines)


def _zones(powercap: Path) -> tuple[Counter, ...]:
    """Packages, and the memory that belongs to them; cores are part of a package, and "psys" holds the packages."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = _text(zone / "name")
        if name.startswith("package") or name == "dram":
            found.append(Counter(name, zone / "energy_uj", int(_text(zone / "max_energy_range_uj") or 0)))
    return tuple(found)


def _lines(system: Path) -> tuple[Line, ...]:
    """Supply lines of INA monitors: milliwatts (the industrial I/O driver), microwatts, or millivolts and milliamperes (hwmon)."""
    found = []
    for device in sorted((system / "bus" / "iio" / "devices").glob("iio:device*")):
        for file in sorted(device.glob("in_power*_input")):
            number = file.name.removeprefix("in_power").removesuffix("_input")
            found.append(Line(_text(device / f"rail_name_{number}") or file.name, (file,), 1e-3))
    for device in sorted((system / "class" / "hwmon").glob("hwmon*")):
        if not _text(device / "name").startswith("ina"):
            continue
        powers = sorted(device.glob("power*_input"))
        found += [Line(_text(Path(str(file)[:-5] + "label")) or device.name, (file,), 1e-6) for file in powers]
        for current in () if powers else sorted(device.glob("curr*_input")):
            number = current.name.removeprefix("curr").removesuffix("_input")
            voltage, label = device / f"in{number}_input", _text(device / f"in{number}_label")
            if voltage.is_file() and not label.startswith("sum"):
                found.append(Line(label or f"{device.name} {number}", (voltage, current), 1e-6))
    whole = [line for line in found if line.name in INPUTS]
    return tuple(whole or found)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
