"""Asking a device what it is, holding that against its target file, and writing one."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import registry
from edgekd.backend import open_backend
from edgekd.devices.fingerprint import SCRIPT, Fingerprint, fingerprint, sections
from edgekd.devices.link import Link, LinkError
from edgekd.errors import UserError
from edgekd.target import DETECTED, Target, data_dir, find_target, names
from edgekd.units import format_bytes

if TYPE_CHECKING:
    from edgekd.reach import Way

FOLDER = "probe"
SECONDS = 60.0
MOST_BYTES = 2**23
LIKE_GIVEN = (0.75, 1.08)  # a kernel keeps memory for itself; makers' "4 GB" may be GiB
DOT_PRODUCTS = {"asimddp", "i8mm", "avx512_vnni", "avx_vnni"}
XNNPACK = "github.com/google/XNNPACK, qs8-qc8w-gemm kernels: nr = 8 (NEON, AVX2), 16 (dot products, AVX-512 VNNI)"


def probe(link: Link, waiting: Callable[[str], None], python: str = "") -> Fingerprint:
    """What the device says of itself, asked while nobody measures there. `python`: the one to ask, by default python3.

    Raises LinkError if there is no shell, or if it does not say all of it within a minute.
    """
    with link.hold(FOLDER, waiting):
        link.send(FOLDER, {SCRIPT.name: SCRIPT})
        lines: list[bytes] = []
        size, until = 0, time.monotonic() + SECONDS
        with link.start(FOLDER, ("sh", SCRIPT.name), {"EDGEKD_PYTHON": python} if python else {}) as talk:
            while not lines or lines[-1] != b"@end":
                lines.append(talk.read(max(0.0, until - time.monotonic())))
                size += len(lines[-1])
                if size > MOST_BYTES:
                    raise LinkError(f"{link.label}: garbage: it says more than a probe can", reason="garbage")
        link.remove_folder(FOLDER)
    return fingerprint(sections(b"\n".join(lines).decode("utf-8", "replace")))


@dataclass(frozen=True)
class Row:
    """One fact: as the target has it, as the device says it, and what is to know about the difference."""

    fact: str
    given: str
    found: str
    remark: str = ""


def compared(found: Fingerprint, target: Target) -> list[Row]:
    """Each fact of both; `remark` where the target is wrong about this device."""
    lacking = [flag for flag in target.isa if flag not in found.isa]
    more = [flag for flag in found.isa if flag in DETECTED and flag not in target.isa and flag != "asimd"]
    isa = (
        f"the device has no {', '.join(lacking)}"
        if lacking
        else f"the device has {', '.join(more)} too"
        if more
        else ""
    )
    memory = ""
    if target.memory and found.memory and not LIKE_GIVEN[0] <= found.memory / target.memory <= LIKE_GIVEN[1]:
        memory = "the device has less" if found.memory < target.memory else "the device has more"
    return [
        Row("chip", target.chip, found.chip),
        Row("triple", target.triple, found.triple, "another device" if target.triple != found.triple else ""),
        Row("isa", " ".join(target.isa), " ".join(found.isa), isa if target.isa or lacking else ""),
        Row("cores", str(target.cores), str(found.cores), "not as many" if target.cores != found.cores else ""),
        Row("memory", format_bytes(target.memory) if target.memory else "", _size(found.memory), memory),
    ]


def told(found: Fingerprint) -> list[tuple[str, str]]:
    """What a target file has no place for, in words."""
    governors = sorted({*found.governors.values()})
    speeds = [
        f"{cpu} {now / 1e9:.2f} ({low / 1e9:.2f} to {high / 1e9:.2f})"
        for cpu, (low, now, high) in found.frequencies.items()
    ]
    heat = [f"{name} {value:.1f} °C" for name, value in found.temperatures.items()]
    runner = f"Python {found.python}" if found.python else "no Python"
    return [
        ("model", found.model),
        ("system", ", ".join(filter(None, (found.system, found.kernel)))),
        ("governor", ", ".join(governors) or "not told"),
        ("GHz", "; ".join(speeds) or "not told"),
        ("sensors", "; ".join(heat) or "none"),
        ("runner", f"{runner} with edgekd {found.edgekd}" if found.edgekd else f"{runner}; edgekd-bench is sent"),
        ("backends", ", ".join(installed(found)) or "none of Python's"),
    ]


def _size(memory: int) -> str:
    return format_bytes(memory) if memory else ""


def installed(found: Fingerprint) -> list[str]:
    """The backends whose packages the Python there has."""
    usable = []
    for name in registry.names("backends"):
        backend = open_backend(name)
        packages = {package.lower() for package in backend.packages.values()}
        if name != "null" and packages and not backend.compile_only and packages <= set(found.packages):
            usable.append(name)
    return sorted(usable, key=lambda name: name != "onnxruntime")


def target_text(name: str, found: Fingerprint, reach: Way, day: str) -> str:
    """A target file with what the device said of itself on this day; each fact with its source."""
    here = f"edgekd devices probe {name}, {day}"
    backends, said = _backends(found)
    halves = {"float16": {"asimdhp", "avx512_fp16"}, "bfloat16": {"bf16", "avx512_bf16", "amx_bf16"}}
    wide = [precision for precision, flags in halves.items() if flags & set(found.isa)]
    facts: dict[str, Any] = {
        "chip": found.chip,
        "triple": found.triple,
        "isa": list(found.isa),
        "cores": found.cores,
        "memory": _size(found.memory),
        "precisions": ["float32", *wide, "int8"],
        "channel_multiple": 16 if DOT_PRODUCTS & set(found.isa) else 8,
        "backends": backends,
        "toolchain": _toolchain(found),
        "clock": ["sudo cpupower frequency-set -g performance"] if found.governors else [],
    }
    facts = {key: value for key, value in facts.items() if value}
    read = [key for key in facts if key not in ("backends", "channel_multiple", "toolchain", "clock")]
    sources = {", ".join(read): here, "channel_multiple": f"{XNNPACK}, {day}", "backends": f"{said}, {day}"}
    if "toolchain" in facts:
        sources["toolchain"] = f"targets/toolchains/{facts['toolchain']}.cmake, {day}"
    if "clock" in facts:
        sources["clock"] = f"its cores have frequency governors: {here}"
    aside = f"{found.model}; {found.system}" if found.model else found.system
    way = reach.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    lines = [f"# {name}, as it told of itself on {day}.", *_table(facts), f"notes = {_text(aside or 'Not told more.')}"]
    lines += ["", "[reach]", f"kind = {_text(getattr(reach, 'kind', 'none'))}", *_table(way)]
    return "\n".join([*lines, "", "[sources]", *(f"{_text(key)} = {_text(page)}" for key, page in sources.items()), ""])


def write_target(path: Path, text: str) -> Target:
    """Write a target file, whole, if it is one that this edgekd reads. Raises UserError if not, or if the file is there."""
    from edgekd.store import write_whole

    if path.suffix != ".toml":
        raise UserError(f"{path}: a target is a TOML file", hint=f"--write {path.with_suffix('.toml')}")
    if path.exists():
        raise UserError(f"{path} exists", hint="remove it first, or write another file and compare the two")
    with tempfile.TemporaryDirectory() as scratch:
        tried = Path(scratch) / path.name
        tried.write_text(text, "utf-8")
        find_target(tried.name, tried.parent)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", hint="free space, or name another file") from error
    return find_target(path.name, path.parent)


def _backends(found: Fingerprint) -> tuple[list[str], str]:
    """Backends to race, the likeliest first, and where that is from."""
    if there := installed(found):
        return there, "packages of the Python on the device"
    for name in names("targets"):
        other = find_target(name, Path())
        if other.triple == found.triple and name != "host":
            return list(other.backends), f"as targets/{name}.toml, of the same triple"
    return ["onnxruntime"], "edgekd's default; nothing was found on the device"


def _toolchain(found: Fingerprint) -> str:
    arm = found.triple.startswith(("armv7", "armv6")) and found.triple.endswith("-linux")
    name = "arm-linux-gnueabihf" if arm else f"{found.triple}-gnu"
    return name if (data_dir("targets") / "toolchains" / f"{name}.cmake").is_file() else ""


def _table(facts: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_text(value)}" for key, value in facts.items()]


def _text(value: Any) -> str:
    """A value as TOML writes it: texts and lists of them as JSON does, what cannot be printed left out."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(_table(value))} }}"
    if isinstance(value, str):
        value = "".join(c for c in value if c.isprintable())
    return json.dumps(value, ensure_ascii=False)
