"""An engine's folder: the files of the backend that made it, and engine.json, which describes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import UserError
from edgekd.json_file import read_json, write_json
from edgekd.signature import Signature

FORMAT = 1
ABOUT = ("engine.json", "signature.json", "entry.json")  # the last is the store's
BUILD = "build"
"""The folder of an engine that holds what it was built from and with: nobody opens it, and an app need not carry it."""


def own_files(engine: Path) -> list[Path]:
    """What the backend wrote into an engine's folder: what an app must carry, beside the two files that describe it."""
    beside = {*ABOUT, BUILD}
    return sorted(p for p in engine.rglob("*") if p.is_file() and p.relative_to(engine).parts[0] not in beside)


def write_engine(program: Path, out: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the program's signature and write engine.json: `facts`, the program's precision and grid where they say no other, the
    format, and the bytes of all the engine's own files.
    """
    Signature.read(program)
    about = read_json(program / "program.json")
    named = {"precision": about["precision"], "grid": about.get("grid", "none")}
    (out / "signature.json").write_bytes((program / "signature.json").read_bytes())
    size = sum(file.stat().st_size for file in own_files(out))
    whole = {**named, **facts, "format": FORMAT, "bytes": size}
    write_json(out / "engine.json", whole)
    return whole


def read_engine(engine: Path, backend: str) -> tuple[dict[str, Any], Path]:
    """engine.json and the engine's file (or the folder that a runtime opens like one).

    Raises UserError if the engine is another backend's, of another format, or names a file outside its folder.
    """
    facts = read_json(engine / "engine.json")
    if facts.get("format") != FORMAT:
        raise UserError(f"{engine}: engine of format {facts.get('format')}, this edgekd reads {FORMAT}")
    if facts.get("backend") != backend:
        raise UserError(f'{engine}: an engine of the backend "{facts.get("backend")}", not of "{backend}"')
    name = facts.get("file")
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise UserError(f"{engine / 'engine.json'}: file {name!r} is not the name of a file in this folder")
    if not (engine / name).exists():
        raise UserError(f"{engine / name} does not exist")
    return facts, engine / name
