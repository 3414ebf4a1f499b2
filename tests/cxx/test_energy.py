"""edgekd-bench's meter on made-up folders of /sys: the joules by hand, and all else as edgekd/latency/energy.py tells it."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cxx.bundles import CMAKE, ROOT, WARNINGS, needs_compilers
from latency.test_energy import zone

from edgekd.latency.energy import meter

pytestmark = needs_compilers


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("energy") / "energy"
    sources = [ROOT / "tests" / "cxx" / "energy.cpp", CMAKE / "src" / "energy.cpp"]
    compiler = shutil.which("c++") or "g++"
    subprocess.run([compiler, "-std=c++17", *WARNINGS.split(), f"-I{CMAKE / 'src'}", *sources, "-o", made], check=True)
    return made


class Metered:
    """The program on a folder: what it meters, why not, and the joules while something is done."""

    def __init__(self, program: Path, system: Path) -> None:
        self._process = subprocess.Popen([program, system], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.of, self.why = self._line(), self._line()

    def during(self, run: Callable[[], object]) -> float:
        self._ask("start")
        run()
        return float(self._ask("stop"))

    def _ask(self, what: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture
def metered(program: Path, tmp_path: Path) -> Iterator[Callable[[], Metered]]:
    """Opens the program on tmp_path, whose meter must be named as Python names it."""
    opened: list[Metered] = []

    def on() -> Metered:
        opened.append(Metered(program, tmp_path))
        theirs = meter(tmp_path)
        assert (opened[-1].of, opened[-1].why) == (theirs.of, theirs.why)
        return opened[-1]

    yield on
    for one in opened:
        one.close()


def test_packages_and_their_memory_are_added_and_a_counter_may_begin_again(
    metered: Callable[[], Metered], tmp_path: Path
) -> None:
    """By hand: package 0 passes its end, 328,850 + 171,150 = 500,000 µJ; package 1 uses 250,000, the memory 50,000: 0.8 J."""
    files = {
        zone(tmp_path, "intel-rapl:0", "package-0", 262_143_000_000): 171_150,
        zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000): 7_250_000,
        zone(tmp_path, "intel-rapl:0:1", "dram", 0): 50_000,
        zone(tmp_path, "intel-rapl:0:0", "core", 0): 10**9,
        zone(tmp_path, "intel-rapl:2", "psys", 0): 10**9,
    }
    found = metered()
    assert found.of == "package-0, dram, package-1"
    assert found.during(lambda: [file.write_text(f"{value}\n") for file, value in files.items()]) == pytest.approx(0.8)
    assert found.during(lambda: None) == 0.0


def test_what_jumps_back_or_goes_away_tells_nothing(metered: Callable[[], Metered], tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    (file.parent / "max_energy_range_uj").unlink()
    found = metered()
    assert math.isnan(found.during(lambda: file.write_text("100\n")))
    assert math.isnan(found.during(file.unlink))


def test_a_boards_monitor_tells_watts_and_its_input_line_holds_the_others(
    metered: Callable[[], Metered], tmp_path: Path
) -> None:
    """4 W before and 6 W after 0.2 s are 1 J."""
    device = tmp_path / "bus" / "iio" / "devices" / "iio:device0"
    device.mkdir(parents=True)
    for number, (rail, milliwatts) in enumerate((("POM_5V_IN", 4000), ("POM_5V_GPU", 900))):
        (device / f"rail_name_{number}").write_text(f"{rail}\n")
        (device / f"in_power{number}_input").write_text(f"{milliwatts}\n")

    def run() -> None:
        time.sleep(0.2)
        (device / "in_power0_input").write_text("6000\n")

    found, start = metered(), time.perf_counter()
    joules = found.during(run)
    assert found.of == "POM_5V_IN"
    assert 1.0 <= joules <= 5 * (time.perf_counter() - start)


def test_other_boards_tell_volts_and_amperes_or_watts_of_each_line(
    metered: Callable[[], Metered], tmp_path: Path
) -> None:
    """6 + 0.5 + 2.5 W; a battery's monitor is none of them."""
    for folder, files in {
        "hwmon0": {"name": "ina3221", "in1_label": "VDD_CPU", "in1_input": 5000, "curr1_input": 1200,
                   "in2_input": 1000, "curr2_input": 500, "curr3_input": 7,
                   "in7_label": "sum of shunt voltages", "in7_input": 9, "curr7_input": 9},
        "hwmon1": {"name": "ina226", "power1_input": 2_500_000, "in1_input": 1, "curr1_input": 1},
        "hwmon2": {"name": "BAT0", "power1_input": 9_000_000},
    }.items():  # fmt: skip
        (tmp_path / "class" / "hwmon" / folder).mkdir(parents=True)
        for file, value in files.items():
            (tmp_path / "class" / "hwmon" / folder / file).write_text(f"{value}\n")
    found, start = metered(), time.perf_counter()
    assert found.of == "VDD_CPU, hwmon0 2, hwmon1"
    joules = found.during(lambda: time.sleep(0.1))
    assert 0.9 <= joules <= 9 * (time.perf_counter() - start)


def test_where_nothing_can_be_read_there_is_a_reason(metered: Callable[[], Metered], tmp_path: Path) -> None:
    nothing = metered()
    assert nothing.why == f"not readable here: no RAPL counter and no INA power monitor in {tmp_path}"
    assert math.isnan(nothing.during(lambda: None))
    file = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    file.unlink()
    file.mkdir()  # whoever reads it gets an error of the system, as without the right to
    assert metered().why == f"not readable here: {file}: Is a directory"
