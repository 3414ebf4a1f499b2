"""What sensors say, from a made-up /sys and /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

from edgekd.latency.conditions import conditions, features, spread


def test_the_hottest_zone_and_the_pinned_cores(tmp_path: Path) -> None:
    for zone, milli in enumerate(("41250", "58500", "")):
        (tmp_path / "class" / "thermal" / f"thermal_zone{zone}").mkdir(parents=True)
        (tmp_path / "class" / "thermal" / f"thermal_zone{zone}" / "temp").write_text(milli)
    for core, kilo in enumerate((600_000, 1_500_000, 2_400_000)):
        folder = tmp_path / "devices" / "system" / "cpu" / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{kilo}\n")
        (folder / "scaling_governor").write_text("ondemand\n" if core else "powersave\n")
    assert conditions([1, 2], tmp_path) == {"celsius": 58.5, "mhz": [1500, 2400], "governor": "ondemand"}
    assert conditions([], tmp_path) == {"celsius": 58.5, "mhz": [600], "governor": "powersave"}
    assert conditions([0], tmp_path / "nowhere") == {"celsius": None, "mhz": [], "governor": ""}


def test_the_spread_of_what_was_told() -> None:
    nothing = {"celsius": None, "mhz": [], "governor": ""}
    one = {"celsius": 49.0, "mhz": [1500, 600], "governor": "ondemand"}
    two = {"celsius": 61.5, "mhz": [1800], "governor": "performance"}
    assert spread([nothing]) == {"celsius": None, "mhz": None, "governors": []}
    found = {"celsius": [49.0, 61.5], "mhz": [600, 1800], "governors": ["ondemand", "performance"]}
    assert spread([one, nothing, two]) == found


def test_instruction_sets_of_both_kinds_of_processor(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert features(tmp_path / "x86") == ["fpu", "avx2"]
    assert features(tmp_path / "arm") == ["fp", "asimd", "asimddp"]
    assert features(tmp_path / "none") == []
