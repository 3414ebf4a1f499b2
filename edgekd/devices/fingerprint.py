"""What a device is, from what it says of itself: chip, cores, instruction sets, memory, clocks, sensors, Python there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.target import DETECTED

SCRIPT = Path(__file__).with_name("probe.sh")
ISA = (*DETECTED, "fma", "f16c", "avx512bw", "avx512vl", "avx512_bf16", "avx512_fp16", "amx_bf16",
       "asimdhp", "fphp", "bf16", "sve", "sve2", "svei8mm", "svebf16", "neon", "vfpv4")  # fmt: skip
"""What a target's `isa` may say, as Linux spells it in /proc/cpuinfo."""

ARM = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse N1", 0xD0D: "Cortex-A77",
    0xD40: "Neoverse V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510",
    0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse N2", 0xD4B: "Cortex-A78C", 0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3", 0xD4F: "Neoverse V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4",
}  # fmt: skip
"""Arm's own cores by part number. Source: Linux, arch/arm64/include/asm/cputype.h, ARM_CPU_PART_*."""

CPUS = "/sys/devices/system/cpu/"


@dataclass(frozen=True)
class Fingerprint:
    """Memory in bytes, frequencies in hertz, temperatures in °C. Empty or 0 where the device does not tell.

    `governors`, `frequencies` (lowest, now, highest): by core, as in "cpu0". `packages`: distributions of the Python there.
    """

    chip: str
    model: str
    triple: str
    isa: tuple[str, ...]
    cores: int
    memory: int
    system: str
    kernel: str
    governors: Mapping[str, str]
    frequencies: Mapping[str, tuple[int, int, int]]
    temperatures: Mapping[str, float]
    python: str
    packages: Mapping[str, str]

    @property
    def edgekd(self) -> str:
        """The version of edgekd there."""
        return self.packages.get("edgekd", "")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "edgekd": self.edgekd}


def sections(text: str) -> dict[str, str]:
    """What `probe.sh` printed, by the file or command that it is from; only what a person could print is kept."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        plain = "".join(c for c in line.replace("\t", " ") if c.isprintable())
        if plain.startswith("@"):
            lines = found.setdefault(plain[1:], [])
        elif plain.startswith(" "):
            lines.append(plain[1:])
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def fingerprint(said: Mapping[str, str]) -> Fingerprint:
    """The fingerprint that these sections give."""
    android = bool(said.get("getprop ro.build.version.release"))
    machine, kernel = (said.get(f"uname -{key}", "").partition("\n")[0][:60] or "unknown" for key in "ms")
    system = "android" if android else kernel.lower()
    processors = _processors(said.get("/proc/cpuinfo", ""))
    packages = dict(line.split(" ", 1) for line in said.get("python", "").splitlines() if " " in line)
    python = packages.pop("python", "")
    return Fingerprint(
        chip=_chip(said, processors)[:200],
        model=(said.get("/proc/device-tree/model") or said.get("getprop ro.product.model") or _product(said))[:200],
        triple=f"{machine}-{system}",
        isa=_isa(processors),
        cores=_whole(said.get("nproc", "")) or len(processors) or 1,
        memory=_memory(said),
        system=_system(said, android)[:200],
        kernel=said.get("uname -r", "")[:200],
        governors=_by_cpu(said, "scaling_governor"),
        frequencies=_frequencies(said),
        temperatures=_temperatures(said),
        python=python,
        packages=dict(sorted(packages.items())),
    )


def _processors(cpuinfo: str) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo that describe a processor."""
    blocks = []
    for block in re.split(r"\n\s*\n", cpuinfo):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in fields:
            blocks.append(fields)
    return blocks


def _isa(processors: list[dict[str, str]]) -> tuple[str, ...]:
    """The instruction sets that every core has."""
    flags = [set((one.get("flags") or one.get("Features") or "").split()) for one in processors]
    every = set.intersection(*flags) if flags else set()
    riscv = [re.match(r"rv(?:32|64)([a-z]+)", one.get("isa", "")) for one in processors]
    if riscv and all(riscv):
        every |= set.intersection(*(set(match[1]) for match in riscv if match)) & {"v", "b"}
    return tuple(flag for flag in (*ISA, "v", "b") if flag in every)


def _chip(said: Mapping[str, str], processors: list[dict[str, str]]) -> str:
    """The processor by its maker's name, or by what its cores are."""
    named = next((one["model name"] for one in processors if one.get("model name")), "")
    if said.get("sysctl -n machdep.cpu.brand_string"):
        return said["sysctl -n machdep.cpu.brand_string"]
    if named and not named.startswith(("ARMv", "AArch64")):
        return named
    cores = Counter(_core(one) for one in processors if one.get("CPU part") or one.get("uarch"))
    kinds = ", ".join(f"{count} × {core}" for core, count in cores.items())
    maker, model = (said.get(f"getprop ro.soc.{key}", "") for key in ("manufacturer", "model"))
    tree = said.get("/proc/device-tree/compatible", "").splitlines()
    soc = f"{maker} {model}".strip() or (tree[-1].replace(",", " ") if tree else "")
    return ": ".join(filter(None, (soc, kinds))) or named or said.get("uname -m") or "unknown"


def _core(processor: Mapping[str, str]) -> str:
    if processor.get("uarch"):
        return processor["uarch"].replace(",", " ")
    maker, part = (_whole(processor.get(key, "")) for key in ("CPU implementer", "CPU part"))
    return ARM.get(part, f"Arm part {part:#x}") if maker == 0x41 else f"core {maker:#x}/{part:#x}"


def _whole(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _memory(said: Mapping[str, str]) -> int:
    match = re.search(r"^MemTotal:\s+(\d{1,15}) kB", said.get("/proc/meminfo", ""), re.MULTILINE)
    return int(match[1]) * 1024 if match else _whole(said.get("sysctl -n hw.memsize", ""))


def _system(said: Mapping[str, str], android: bool) -> str:
    if android:
        return f"Android {said['getprop ro.build.version.release']}"
    match = re.search(r'^PRETTY_NAME="?(.*?)"?$', said.get("/etc/os-release", ""), re.MULTILINE)
    return match[1] if match else said.get("uname -s", "")


def _product(said: Mapping[str, str]) -> str:
    return said.get("/sys/devices/virtual/dmi/id/product_name", "")


def _by_cpu(said: Mapping[str, str], file: str) -> dict[str, str]:
    """The content of each core's `cpufreq/file`, in the order of the cores."""
    pattern = re.compile(rf"{CPUS}(cpu\d+)/cpufreq/{file}")
    found = {match[1]: text for name, text in said.items() if (match := pattern.fullmatch(name)) and text}
    return dict(sorted(found.items(), key=lambda pair: int(pair[0][3:])))


def _frequencies(said: Mapping[str, str]) -> dict[str, tuple[int, int, int]]:
    low, now, high = (
        _by_cpu(said, file) for file in ("cpuinfo_min_freq", "scaling_cur_freq", "cpuinfo_max_freq")
    )  # in kHz
    known = dict.fromkeys((*low, *now, *high))
    return {cpu: tuple(1000 * _whole(side.get(cpu, "")) for side in (low, now, high)) for cpu in known}  # type: ignore[misc]  # three


def _temperatures(said: Mapping[str, str]) -> dict[str, float]:
    """Each sensor that says what can be: thermal zones, and the monitors of the board and its drives."""
    found: dict[str, float] = {}
    for name, text in said.items():
        if zone := re.fullmatch(r"(/sys/class/thermal/(thermal_zone\d+)/)temp", name):
            label, unique = said.get(f"{zone[1]}type", ""), zone[2]
        elif sensor := re.fullmatch(r"(/sys/class/hwmon/(hwmon\d+)/)(temp\d+)_input", name):
            label = f"{said.get(f'{sensor[1]}name', '')} {said.get(f'{sensor[1]}{sensor[3]}_label', '')}".strip()
            unique = f"{sensor[2]} {sensor[3]}"
        else:
            continue
        if re.fullmatch(r"-?\d{1,7}", text) and -60_000 < int(text) < 200_000 and int(text) != 0:
            said_name = label[:60] or unique
            found[said_name if said_name not in found else f"{said_name} ({unique})"] = int(text) / 1000
    return found
