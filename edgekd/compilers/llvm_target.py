"""What LLVM and a linker are told of a target: its triple, processor and features, and the C++ compiler that links for it.

A target that is this machine gets the processor that LLVM finds here, without the features that a hypervisor hides. Any other
gets the least processor of its architecture, and of the features of its `isa` those that code is generated for. Imports no
compiler; `described` asks TVM's LLVM.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.target import cpu_flags, this_machine

__all__ = ["described", "foreign", "holds", "linker", "refused_system"]


@dataclass(frozen=True)
class Architecture:
    """One that code is made for: LLVM's `triple`, the `processor` that all of it are, what else TVM is told (`more`),

    LLVM's name of each instruction set by that of Linux, and Debian's name of the C++ compiler with the package it is in.
    """

    triple: str
    processor: str
    features: Mapping[str, tuple[str, ...]]
    compiler: str
    package: str
    base: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)


X86_64 = Architecture(
    "x86_64-linux-gnu",
    "x86-64",
    {
        flag: (flag.replace("_", ""),)
        for flag in ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx_vnni")
    },
    "x86_64-linux-gnu-g++",
    "g++-x86-64-linux-gnu",
)
AARCH64 = Architecture(
    "aarch64-linux-gnu",
    "generic",
    {
        "asimd": ("neon",),
        "asimddp": ("dotprod",),
        "asimdhp": ("fullfp16",),
        "fphp": ("fullfp16",),
        **{flag: (flag,) for flag in ("i8mm", "bf16")},
    },
    "aarch64-linux-gnu-g++",
    "g++-aarch64-linux-gnu",
)
ARMV7 = Architecture(
    "armv7a-linux-gnueabihf",
    "generic",
    {"neon": ("neon",), "vfpv4": ("vfp4",)},
    "arm-linux-gnueabihf-g++",
    "g++-arm-linux-gnueabihf",
    base=("vfp3d16",),
    more={"mfloat-abi": "hard"},
)
RISCV64 = Architecture(
    "riscv64-linux-gnu",
    "generic-rv64",
    {"v": ("v",), "b": ("zba", "zbb", "zbs")},
    "riscv64-linux-gnu-g++",
    "g++-riscv64-linux-gnu",
    base=("m", "a", "f", "d", "c"),
    more={"mabi": "lp64d"},
)
ARCHITECTURES = {"x86_64": X86_64, "aarch64": AARCH64, "armv7l": ARMV7, "riscv64": RISCV64}
"""By what Linux calls them (uname -m)."""

VECTORS = ("avx", "amx", "fma", "f16c", "gfni", "vaes", "vpclmul")
"""What x86 features begin with that LLVM takes from a processor's name, and that a hypervisor may hide."""


def _triple(target: Mapping[str, Any]) -> str:
    return str(target.get("triple") or this_machine()["triple"])


def _architecture(target: Mapping[str, Any]) -> Architecture:
    return ARCHITECTURES[_triple(target).partition("-")[0]]


def refused_system(target: Mapping[str, Any]) -> list[str]:
    """One line for an architecture or a system that no code is made for, or else for a linker that is not here."""
    triple = _triple(target)
    architecture, _, system = triple.partition("-")
    if architecture not in ARCHITECTURES or system != "linux":
        known = ", ".join(f"{name}-linux" for name in ARCHITECTURES)
        return [f"the target is {triple}; this backend links for {known}"]
    if linker(target):
        return []
    return [f"no C++ compiler that links for {triple}: apt-get install {_package(target)}"]


def _package(target: Mapping[str, Any]) -> str:
    return "g++" if _is_ours(target) else _architecture(target).package


def _is_ours(target: Mapping[str, Any]) -> bool:
    return _triple(target) == str(this_machine()["triple"])


def linker(target: Mapping[str, Any]) -> str:
    """Path of the C++ compiler that links for the target; empty if none is here."""
    names = [os.environ.get("CXX", ""), "g++", "clang++"] if _is_ours(target) else [_architecture(target).compiler]
    return next(filter(None, map(shutil.which, filter(None, names))), "") or ""


def foreign(target: Mapping[str, Any]) -> str:
    """Why code for the target cannot be run here; empty where it can."""
    if not _is_ours(target):
        return f"its code is for {_triple(target)}, this machine is {this_machine()['triple']}"
    lacking = [flag for flag in target.get("isa") or () if flag not in cpu_flags()]
    return f"its code may use {', '.join(lacking)}, which this machine lacks" if lacking else ""


def _is_here(target: Mapping[str, Any]) -> bool:
    """Whether the target is this machine as it was detected, not merely one that its code runs on."""
    return _is_ours(target) and set(target.get("isa") or this_machine()["isa"]) == set(this_machine()["isa"])


def holds(target: Mapping[str, Any]) -> dict[str, Any]:
    """What code for the target depends on beside the target: of this machine, its processor with all that it can do."""
    return {"chip": this_machine()["chip"], "flags": sorted(cpu_flags())} if _is_here(target) else {}


def described(target: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """TVM's description of the target: what `tvm.target.Target` takes. `threads` that kernels are made for."""
    if not _is_here(target):
        found = _architecture(target)
        flags = (f"+{name}" for flag in target.get("isa") or () for name in found.features.get(flag, ()))
        features = [*(f"+{name}" for name in found.base), *dict.fromkeys(flags)]
        named = {"mtriple": found.triple, "mcpu": found.processor, **({"mattr": features} if features else {})}
        return {"kind": "llvm", **named, **found.more, "num-cores": threads}
    from tvm.target import Target, codegen

    named = {"mtriple": str(codegen.llvm_get_system_triple()), "mcpu": str(codegen.llvm_get_system_cpu())}
    known = codegen.llvm_get_cpu_features(Target({"kind": "llvm", **named}))
    there = {_plain(flag) for flag in cpu_flags()}
    hidden = sorted(str(f) for f in known if str(f).startswith(VECTORS) and _plain(str(f)) not in there)
    if not _triple(target).startswith("x86_64"):
        hidden = []
    off = {"mattr": [f"-{name}" for name in hidden]} if hidden else {}
    return {"kind": "llvm", **named, **off, "num-cores": threads}


def _plain(flag: str) -> str:
    """A feature as LLVM or Linux spells it, without what they differ in.

    >>> _plain("avx512_vnni") == _plain("avx512vnni"), _plain("amx_tile") == _plain("amx-tile")
    (True, True)
    """
    return flag.replace("_", "").replace("-", "").replace(".", "")
