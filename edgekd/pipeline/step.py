"""A step of the plan: a label, a key, and how to make the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import edgekd
from edgekd import digest


@dataclass(frozen=True)
class Step:
    """`make(folder)` writes the result into an empty folder; `reads` says in words what it depends on, inputs first."""

    label: str
    key: str
    reads: tuple[str, ...]
    make: Callable[[Path], dict[str, Any] | None]


def key_of(
    kind: str,
    *,
    inputs: Iterable[str],
    fields: Any,
    reads: Mapping[str, str],
    code: Iterable[Path],
    packages: Iterable[str] = ("torch",),
) -> str:
    """sha256 over everything that a result depends on.

    inputs are the KEYS of the steps before, not the digests of their content: the whole plan, cached or not, is then
    known before any work (docs/decisions/0002).
    """
    parts = {
        "edgekd": edgekd.__version__,
        "kind": kind,
        "inputs": list(inputs),
        "fields": fields,
        "reads": dict(reads),
        "code": [digest.of_source(path) for path in code],
        "packages": {name: package_version(name) for name in packages},
    }
    return digest.of_json(parts)


def package_version(name: str) -> str:
    """Of an installed distribution, without importing it; "" if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
