"""Joules from a made-up /sys whose counters are moved while a block runs: what was read, and by hand what it means."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from latency.test_race import simulated

from edgekd.latency.energy import Meter, mean, meter, said, spent
from edgekd.latency.race import Race, race
from edgekd.pipeline.measure import summary

RANGE = 262_143_328_850  # microjoules: 2³² steps of 61 µJ, as Intel's desktop packages count


def zone(system: Path, name: str, of: str, microjoules: int) -> Path:
    folder = system / "class" / "powercap" / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{of}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_packages_and_their_memory_are_added_and_a_counter_may_begin_again(tmp_path: Path) -> None:
    """By hand: package 0 passes its end, 328,850 + 171,150 = 500,000 µJ; package 1 uses 250,000, the memory 50,000: 0.8 J."""
    first = zone(tmp_path, "intel-rapl:0", "package-0", 262_143_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 7_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    parts = [zone(tmp_path, "intel-rapl:0:0", "core", 0), zone(tmp_path, "intel-rapl:2", "psys", 0)]

    def run() -> str:
        for file, value in (
            (first, 171_150),
            (second, 7_250_000),
            (memory, 50_000),
            *((part, 10**9) for part in parts),
        ):
            file.write_text(f"{value}\n")
        return "done"

    found = meter(tmp_path)
    assert (found.of, found.why) == ("package-0, dram, package-1", "")
    assert found.during(run) == ("done", pytest.approx(0.8))
    assert found.during(lambda: None) == (None, 0.0)


def test_a_counter_that_jumps_back_without_reason_tells_nothing(tmp_path: Path) -> None:
    file = zone(tmp_path, "intel-rapl:0", "package-0", 900)
    (file.parent / "max_energy_range_uj").unlink()
    assert meter(tmp_path).during(lambda: file.write_text("100\n")) == (4, None)
    assert spent(900, 100, RANGE) == RANGE - 800
    assert meter(tmp_path).during(file.unlink) == (None, None), "a sensor that goes away in the middle"


def test_a_boards_monitor_tells_watts_and_its_input_line_holds_the_others(tmp_path: Path) -> None:
    """A Jetson's INA3221 by the industrial I/O driver, in milliwatts: 4 W before and 6 W after 0.2 s are 1 J."""
    device = tmp_path / "bus" / "iio" / "devices" / "iio:device0"
    device.mkdir(parents=True)
    for number, (rail, milliwatts) in enumerate((("POM_5V_IN", 4000), ("POM_5V_GPU", 900), ("POM_5V_CPU", 700))):
        (device / f"rail_name_{number}").write_text(f"{rail}\n")
        (device / f"in_power{number}_input").write_text(f"{milliwatts}\n")

    def run() -> float:
        start = time.perf_counter()
        time.sleep(0.2)
        (device / "in_power0_input").write_text("6000\n")
        return time.perf_counter() - start

    found = meter(tmp_path)
    assert found.of == "POM_5V_IN"
    seconds, joules = found.during(run)
    assert joules is not None and 5 * seconds <= joules <= 5 * seconds + 0.5


def test_other_boards_tell_volts_and_amperes_or_watts_of_each_line(tmp_path: Path) -> None:
    """5,000 mV × 1,200 mA + 1,000 mV × 500 mA + 2,500,000 µW = 6 + 0.5 + 2.5 W; a battery's monitor is none of them."""
    for folder, files in {
        "hwmon0": {"name": "ina3221", "in1_label": "VDD_CPU", "in1_input": 5000, "curr1_input": 1200,
                   "in2_label": "VDD_SOC", "in2_input": 1000, "curr2_input": 500,
                   "in7_label": "sum of shunt voltages", "in7_input": 9, "curr7_input": 9},
        "hwmon1": {"name": "ina226", "power1_input": 2_500_000, "power1_label": "DDR", "in1_input": 1, "curr1_input": 1},
        "hwmon2": {"name": "BAT0", "power1_input": 9_000_000},
    }.items():  # fmt: skip
        (tmp_path / "class" / "hwmon" / folder).mkdir(parents=True)
        for file, value in files.items():
            (tmp_path / "class" / "hwmon" / folder / file).write_text(f"{value}\n")
    found = meter(tmp_path)
    assert found.of == "VDD_CPU, VDD_SOC, DDR"
    assert sum(line.watts() for line in found.lines) == pytest.approx(9.0)


def test_where_nothing_can_be_read_there_is_a_reason_and_no_number(tmp_path: Path) -> None:
    nothing = meter(tmp_path)
    assert nothing.why == f"not readable here: no RAPL counter and no INA power monitor in {tmp_path}"
    assert nothing.during(lambda: 3) == (3, None)
    file = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    file.unlink()
    file.mkdir()  # whoever reads it gets an error of the system, as without the right to
    assert meter(tmp_path).why == f"not readable here: {file}: Is a directory"
    assert mean([]) is None and mean([1.0, 2.0]) == 1.5


def test_a_race_keeps_joules_of_a_call_or_says_why_there_are_none(tmp_path: Path) -> None:
    engine = simulated(tmp_path, "a", 0.001)
    raced = race({"a": engine}, processes=1, seconds=0.05, cold_starts=0, wait=0, threads=1)
    assert raced.runners["a"].joules == () and raced.energy["why"] == "a simulated device uses none"
    found = summary(raced)["energy"]
    assert found["joules"] == {"a": None} and said(found) == "a simulated device uses none"
    written = raced.to_json()
    written["engines"]["a"]["joules"], written["energy"] = [0.001, 0.003], {"of": "package-0", "why": ""}
    read = Race.from_json(json.loads(json.dumps(written)))
    told = summary(read)["energy"]
    assert told["joules"] == {"a": pytest.approx(0.002)}
    assert said(told) == "of package-0, with what it draws idle and for other processes"
    del written["energy"], written["engines"]["a"]["joules"]
    assert summary(Race.from_json(written))["energy"]["why"] == "not told by the device"


def test_this_machine_is_asked() -> None:
    found = meter()
    assert bool(found.of) != bool(found.why)
    joules = found.during(lambda: sum(range(100_000)))[1]
    assert (joules is None) == bool(found.why) and (joules or 0.0) >= 0
    assert isinstance(found, Meter)
