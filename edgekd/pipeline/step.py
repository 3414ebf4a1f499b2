"""What a plan is made of: steps with their keys, versions of the student, engines in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgekd
from edgekd import digest
from edgekd.backend import open_backend
from edgekd.quant.precision import KERNELS

if TYPE_CHECKING:
    from edgekd.target import Target

MANY = 3
"""So many more of a kind, behind the first that a step reads, are counted and not named."""
TORCH = ("torch", "torchao", "torch-pruning")
"""Packages that a student's weights and outputs depend on."""


@dataclass(frozen=True)
class Step:
    """`make(folder)` writes the result into an empty folder; `reads` says in words what it depends on, inputs first."""

    label: str
    key: str
    reads: tuple[str, ...]
    make: Callable[[Path], dict[str, Any] | None]

    @property
    def told_reads(self) -> str:
        """`reads` for a line: of many alike the first and how many more.

        >>> Step("", "", ("compile a", "compile b", "compile c", "compile d", "target"), lambda out: None).told_reads
        'compile a and 3 more, target'
        """
        told: list[str] = []
        for _, group in groupby(self.reads, key=lambda name: name.partition(" ")[0]):
            first, *more = group
            told += [f"{first} and {len(more)} more"] if len(more) >= MANY else [first, *more]
        return ", ".join(told)


@dataclass(frozen=True)
class Version:
    """The student after a stage (or the teacher): `name` of the step that made it, and its `precision`.

    `is_file`: a teacher that came as an ONNX file, beside a student that is a network. `black_box`: a teacher of which only
    its outputs are had, so that no engine can be made of it. `is_program`: it, or what it was made from, came as an ONNX
    file, so that what the step made is a program already. `made_for`: the one target that it was made for, by measuring
    there; its name then says for which backend. `grid`: where the targets' backends take several, the one that a quantized
    version was made for.
    """

    name: str
    stage: str
    precision: str
    is_file: bool = False
    black_box: bool = False
    is_program: bool = False
    made_for: str = ""
    grid: str = ""

    @property
    def program(self) -> str:
        """The name of the step that makes its program."""
        if self.made_for:
            return f"{self.name} for {self.made_for}"
        return self.name if self.is_program else f"export {self.name}"

    @property
    def judged_as(self) -> tuple[str, ...]:
        """What is judged of it besides its engines."""
        return ("fake-quantized", "program") if self.quantized and not self.is_program else ("network",)

    @property
    def quantized(self) -> bool:
        return self.precision != "float32"

    @property
    def simulated(self) -> bool:
        """Whether no runtime here has kernels for its precision: it is judged in torch, and never compiled."""
        return self.precision not in KERNELS


@dataclass(frozen=True)
class Candidate:
    """An engine in the making: a version, for a target, by a backend."""

    version: Version
    target: Target
    backend: str

    @property
    def name(self) -> str:
        return self.version.name if self.version.made_for else f"{self.version.name} on {self.backend}"

    @property
    def compile_only(self) -> str:
        """Why its engine cannot be run here; empty where it can."""
        return open_backend(self.backend).compile_only

    def step(self, verb: str) -> str:
        """The name of its compile or evaluate step."""
        return f"{verb} {self.name} for {self.target.name}"


def judged(version: Version, kind: str) -> str:
    """The name of a judge step; what was made by measuring was judged in its making."""
    if version.made_for:
        return version.program
    return f"judge {version.name}" if kind == "network" else f"judge {version.name}, {kind}"


def key_of(
    kind: str,
    *,
    inputs: Iterable[str],
    fields: Any,
    reads: Mapping[str, str],
    code: Iterable[Path],
    packages: Iterable[str] | Mapping[str, str] = ("torch",),
) -> str:
    """sha256 over everything that a result depends on.

    inputs are the KEYS of the steps before, not the digests of their content: the whole plan, cached or not, is then
    known before any work (docs/decisions/0002). packages are names of installed distributions, or versions by name.
    """
    parts = {
        "edgekd": edgekd.__version__,
        "kind": kind,
        "inputs": list(inputs),
        "fields": fields,
        "reads": dict(reads),
        "code": [digest.of_source(path) for path in code],
        "packages": dict(packages) if isinstance(packages, Mapping) else {n: package_version(n) for n in packages},
    }
    return digest.of_json(parts)


def package_version(name: str) -> str:
    """Of an installed distribution, without importing it; "" if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
