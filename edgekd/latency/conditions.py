"""What a machine's sensors say around a block of calls: temperature, frequency, and who sets it; as far as Linux tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SYSTEM = Path("/sys")
CPUINFO = Path("/proc/cpuinfo")


def conditions(cores: Sequence[int], system: Path = SYSTEM) -> dict[str, Any]:
    """{"celsius": the hottest zone's or null, "mhz": of each of `cores` that tells, "governor": the first's or ""}."""
    zones = [
        read
        for zone in (system / "class" / "thermal").glob("thermal_zone*/temp")
        if (read := _number(zone)) is not None
    ]
    scaling = [system / "devices" / "system" / "cpu" / f"cpu{core}" / "cpufreq" for core in cores or (0,)]
    hertz = [_number(folder / "scaling_cur_freq") for folder in scaling]
    return {
        "celsius": max(zones) / 1000 if zones else None,
        "mhz": [round(kilo / 1000) for kilo in hertz if kilo is not None],
        "governor": _text(scaling[0] / "scaling_governor"),
    }


def features(cpuinfo: Path = CPUINFO) -> list[str]:
    """The first processor's instruction sets as Linux spells them; empty where it does not tell."""
    for line in _text(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return value.split()
    return []


def spread(readings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lowest and highest of many readings, null where none told: {"celsius": [49.0, 61.5], "mhz": …, "governors": [...]}."""
    degrees = [r["celsius"] for r in readings if r["celsius"] is not None]
    hertz = [mhz for r in readings for mhz in r["mhz"]]
    return {
        "celsius": [min(degrees), max(degrees)] if degrees else None,
        "mhz": [min(hertz), max(hertz)] if hertz else None,
        "governors": sorted({r["governor"] for r in readings} - {""}),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""  # a sensor that is asleep answers an error


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
