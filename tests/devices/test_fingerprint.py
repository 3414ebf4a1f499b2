"""What a device says of itself, read; this machine's own against what other programs say of it; and the target file of it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path

import psutil
import pytest

from edgekd.devices.fingerprint import SCRIPT, Fingerprint, fingerprint, sections
from edgekd.devices.link import LinkError
from edgekd.devices.local import LocalLink
from edgekd.devices.probe import compared, installed, probe, target_text, told, write_target
from edgekd.errors import UserError
from edgekd.reach import Local, Ssh
from edgekd.target import find_target

CORE = "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {}\n\n"
PI_FLAGS = "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


def block(name: str, text: str) -> str:
    return f"@{name}\n" + "".join(f" {line}\n" for line in text.splitlines()) + "\n"


PI = "".join(
    [
        block("uname -s", "Linux"),
        block("uname -m", "aarch64"),
        block("uname -r", "6.6.31+rpt-rpi-2712"),
        block("nproc", "4"),
        block("/proc/cpuinfo", "".join(CORE.format(i, PI_FLAGS, "0xd0b") for i in range(4)) + "Revision\t: c04170\nModel\t\t: Pi"),
        block("/proc/meminfo", "MemTotal:        4146256 kB\nMemFree:         3127312 kB"),
        block("/etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"'),
        block("/proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0"),
        block("/proc/device-tree/compatible", "raspberrypi,5-model-b\nbrcm,bcm2712"),
        *(block(f"/sys/devices/system/cpu/cpu{i}/cpufreq/scaling_governor", "ondemand") for i in range(4)),
        *(block(f"/sys/devices/system/cpu/cpu{i}/cpufreq/scaling_cur_freq", "1500000") for i in range(4)),
        *(block(f"/sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_max_freq", "2400000") for i in range(4)),
        *(block(f"/sys/devices/system/cpu/cpu{i}/cpufreq/cpuinfo_min_freq", "1500000") for i in range(4)),
        block("/sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
        block("/sys/class/thermal/thermal_zone0/temp", "48850"),
        block("/sys/class/hwmon/hwmon2/name", "rp1_adc"),
        block("/sys/class/hwmon/hwmon2/temp1_input", "51234"),
        block("python", "python 3.11.2\nedgekd 0.2.0\nonnxruntime 1.31.1\nonnx 1.23.2\nnumpy 2.4.6"),
        "@end\n",
    ]
)  # fmt: skip


def pi() -> Fingerprint:
    return fingerprint(sections(PI))


def test_a_raspberry_pi() -> None:
    found = pi()
    assert found.chip == "brcm bcm2712: 4 × Cortex-A76"
    assert (found.triple, found.cores, found.memory) == ("aarch64-linux", 4, 4146256 * 1024)
    assert found.isa == ("asimd", "asimddp", "asimdhp", "fphp")
    assert (found.model, found.system) == ("Raspberry Pi 5 Model B Rev 1.0", "Debian GNU/Linux 12 (bookworm)")
    assert found.governors == dict.fromkeys(["cpu0", "cpu1", "cpu2", "cpu3"], "ondemand")
    assert found.frequencies["cpu3"] == (1_500_000_000, 1_500_000_000, 2_400_000_000)
    assert found.temperatures == {"cpu-thermal": 48.85, "rp1_adc": 51.234}
    assert (found.python, found.edgekd, installed(found)) == ("3.11.2", "0.2.0", ["onnxruntime"])
    said = dict(told(found))
    assert said["governor"] == "ondemand" and said["sensors"] == "cpu-thermal 48.9 °C; rp1_adc 51.2 °C"
    assert said["runner"] == "Python 3.11.2 with edgekd 0.2.0" and "cpu3 1.50 (1.50 to 2.40)" in said["GHz"]


def test_the_shipped_target_describes_it() -> None:
    """What is known of a Raspberry Pi 5 from its makers' pages agrees with what one says of itself."""
    rows = {row.fact: row for row in compared(pi(), find_target("raspberry-pi-5", Path()))}
    assert [row.remark for row in rows.values()] == [""] * 5
    assert rows["memory"].found == "4.25 GB" and rows["memory"].given == "4.00 GB"
    other = {row.fact: row.remark for row in compared(pi(), find_target("raspberry-pi-4", Path()))}
    assert other == {
        "chip": "",
        "triple": "",
        "isa": "the device has asimddp too",
        "cores": "",
        "memory": "the device has more",
    }
    wrong = {row.fact: row.remark for row in compared(pi(), find_target("x86-64-avx2", Path()))}
    assert wrong["triple"] == "another device" and wrong["isa"] == "the device has no avx2, fma, f16c"


def test_big_and_little_cores_of_a_phone() -> None:
    """Only what every core has counts; the chip is what Android's properties and the kinds of core say."""
    cores = "".join(
        CORE.format(i, "fp asimd fphp asimdhp asimddp i8mm bf16" if i else "fp asimd asimddp i8mm sve2", part)
        for i, part in enumerate(["0xd46"] * 4 + ["0xd4d"] * 4 + ["0xd4e"])
    )
    said = [
        block("uname -s", "Linux"), block("uname -m", "aarch64"), block("/proc/cpuinfo", cores),
        block("getprop ro.soc.manufacturer", "Google"), block("getprop ro.soc.model", "Tensor G3"),
        block("getprop ro.product.model", "Pixel 8"), block("getprop ro.build.version.release", "15"),
    ]  # fmt: skip
    found = fingerprint(sections("".join(said)))
    assert found.chip == "Google Tensor G3: 4 × Cortex-A510, 4 × Cortex-A715, 1 × Cortex-X3"
    assert (found.triple, found.cores, found.system, found.model) == ("aarch64-android", 9, "Android 15", "Pixel 8")
    assert found.isa == ("asimd", "asimddp", "i8mm")
    assert (found.python, found.memory, found.temperatures) == ("", 0, {})
    assert dict(told(found))["runner"] == "no Python; edgekd-bench is sent"


def test_risc_v_with_vectors() -> None:
    cores = "".join(
        f"processor\t: {i}\nisa\t\t: rv64imafdcbv_zicbom_zba\nuarch\t\t: spacemit,x60\n\n" for i in range(8)
    )
    said = [block("uname -s", "Linux"), block("uname -m", "riscv64"), block("/proc/cpuinfo", cores)]
    found = fingerprint(sections("".join(said)))
    assert (found.chip, found.triple, found.isa, found.cores) == ("8 × spacemit x60", "riscv64-linux", ("v", "b"), 8)


@pytest.mark.parametrize(
    "text", ["", "@\n\n @x\n", "@nproc\n 1e9\n@uname -m\n", "\x00\xff@" * 50, "@/proc/cpuinfo\n processor\n :::\n"]
)
def test_a_device_that_says_nonsense(text: str) -> None:
    found = fingerprint(sections(text))
    assert (found.cores, found.isa, found.temperatures, found.governors) == (1, (), {}, {})


def test_what_a_device_says_moves_no_cursor(tmp_path: Path) -> None:
    hostile = 'evil\x1b[2J\x07 "]\nx = 1\n"""\\\x7f'
    said = (
        block("uname -m", hostile)
        + block("/proc/cpuinfo", f"processor : 0\nmodel name : {hostile}")
        + block("uname -s", "Linux")
    )
    found = fingerprint(sections(said))
    assert found.chip.isprintable() and found.triple.replace("\n", "").isprintable()
    written = write_target(tmp_path / "evil.toml", target_text("evil", found, Local(), "2026-11-22"))
    assert written.chip == 'evil[2J "]'


def test_this_machine_as_other_programs_see_it(tmp_path: Path) -> None:
    with LocalLink(tmp_path / "device") as link:
        found = probe(link, lambda other: pytest.fail(f"{other} holds the device"))
    assert found.triple == f"{platform.machine()}-{platform.system().lower()}"
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory == pytest.approx(psutil.virtual_memory().total, rel=1e-3)
    assert found.kernel == platform.release()
    assert not list((tmp_path / "device" / "work").iterdir()), "it cleans up after itself"
    cpuinfo = Path("/proc/cpuinfo").read_text()
    for flag in found.isa:
        assert re.search(rf"^(flags|Features)\s*:.*\b{flag}\b", cpuinfo, re.MULTILINE)
    host = compared(found, find_target("host", tmp_path))
    assert not [row for row in host if row.remark]


def test_a_shell_of_another_kind_reads_the_script() -> None:
    """The script is POSIX: bash's own mode for it, and dash where it is sh, say the same."""
    said = [
        sections(subprocess.run([*shell, str(SCRIPT)], capture_output=True, text=True, check=True).stdout)
        for shell in (["sh"], ["bash", "--posix"])
    ]
    for one in said:
        one.pop("/proc/meminfo")
        one["/proc/cpuinfo"] = re.sub(r"cpu MHz.*", "", one["/proc/cpuinfo"])
        for name in [name for name in one if "freq" in name or "temp" in name]:
            del one[name]
    assert said[0] == said[1]
    assert "end" in said[0]


def test_the_target_file_says_what_the_device_said(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch()
    reach = Ssh(kind="ssh", host="pi.local", user="edge", key=str(key))
    text = target_text("kiosk", pi(), reach, "2026-11-22")
    found = write_target(tmp_path / "kiosk.toml", text)
    assert find_target("kiosk.toml", tmp_path) == found
    assert (found.chip, found.triple, found.isa, found.cores) == (pi().chip, pi().triple, pi().isa, 4)
    assert found.memory == 4_250_000_000 and found.precisions == ("float32", "float16", "int8")
    assert (found.backends, found.channel_multiple, found.toolchain) == (("onnxruntime",), 16, "aarch64-linux-gnu")
    assert found.reach == reach
    assert not [row for row in compared(pi(), found) if row.remark]
    given = tomllib.loads(text)
    for fact in {*given} - {"reach", "sources", "notes"}:
        assert re.search(r"2026-11-22$", found.source_of(fact)), f"{fact} has no source with a date"
    with pytest.raises(UserError, match="exists"):
        write_target(tmp_path / "kiosk.toml", text)
    with pytest.raises(UserError, match="a target is a TOML file"):
        write_target(tmp_path / "kiosk.json", text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key", "kiosk.toml"]


def test_without_a_python_there_its_backends_are_those_of_its_kind(tmp_path: Path) -> None:
    said = sections(PI)
    del said["python"]
    found = write_target(tmp_path / "bare.toml", target_text("bare", fingerprint(said), Local(), "2026-11-22"))
    assert found.source_of("backends").startswith("as targets/") and "of the same triple" in found.source_of("backends")
    assert found.backends[0] in ("onnxruntime", "tensorrt", "executorch", "litert")


def test_a_device_that_talks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "probe.sh"
    script.write_text("while :; do echo ' more and more and more of it'; done\n")
    monkeypatch.setattr("edgekd.devices.probe.SCRIPT", script)
    monkeypatch.setattr("edgekd.devices.probe.MOST_BYTES", 10_000)
    with LocalLink(tmp_path / "device") as link, pytest.raises(LinkError, match="more than a probe can") as caught:
        probe(link, lambda other: None)
    assert caught.value.reason == "garbage"
