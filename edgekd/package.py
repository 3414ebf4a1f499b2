"""A package: a bundle laid out as a host takes it that does not use CMake: a web page, an Android library, a Swift package.

`edgekd package web` opens edgekd/packages/web.py, and writes what it finds in edgekd/packages/web/ around the bundle.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from edgekd import __version__, bundle
from edgekd.errors import UserError, nearest

PACKAGES = Path(__file__).parent / "packages"
TEMPLATE = ".j2"
# Files of the C++ library that are of no use inside a package of another build system.
CMAKE_ONLY = shutil.ignore_patterns("README.md")


@dataclass(frozen=True)
class Source:
    """The bundle that is packaged, every file of it checked."""

    folder: Path
    manifest: Mapping[str, Any]
    engine: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest.get("name") or "student")

    @property
    def identifier(self) -> str:
        """The name as languages take one: letters, digits and underscores, a letter first.

        >>> Source(Path(), {"name": "2-way net"}, {}).identifier
        'student_2_way_net'
        """
        found = re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_") or "student"
        return found if found[0].isalpha() else f"student_{found}"

    @property
    def backend(self) -> str:
        return str(self.engine.get("backend", ""))

    @property
    def compiled_with(self) -> str:
        """Version of the runtime that the engine was compiled and measured with; empty if it is not known."""
        return str((self.engine.get("versions") or {}).get(self.backend) or "")


class Package(ABC):
    """One host. Its name is its file's."""

    name: ClassVar[str]
    backends: ClassVar[tuple[str, ...]]
    """Whose engines this host can run."""

    @abstractmethod
    def fill(self, source: Source, out: Path, runtime: Path | None) -> list[str]:
        """Write the package into the empty folder `out`; what the user should know or do next, a line each.

        `runtime`: where the host's runtime lies, if the user said so. Raises UserError for what is missing.
        """

    def copy(self, out: Path, **facts: Any) -> None:
        """This host's own files into `out`, its templates filled in with `facts`."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

        folder = PACKAGES / self.name
        environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=select_autoescape(("html.j2", "xml.j2")),
            undefined=StrictUndefined,
            trim_blocks=True,
            keep_trailing_newline=True,
        )
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            inside = path.relative_to(folder)
            final = out / (inside.with_suffix("") if path.suffix == TEMPLATE else inside)
            final.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == TEMPLATE:
                text = environment.get_template(inside.as_posix()).render(edgekd=__version__, **facts)
                final.write_text(text, "utf-8")
            else:
                shutil.copyfile(path, final)


def names() -> list[str]:
    """The hosts that there are. Imports none of them."""
    return sorted(path.stem for path in PACKAGES.glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> Package:
    if name not in names():
        raise UserError(f'no package "{name}"', hint=nearest(name, names()))
    module = import_module(f"edgekd.packages.{name}")
    (exported,) = module.__all__
    made: Package = getattr(module, exported)()
    return made


def write(name: str, folder: Path, out: Path, runtime: Path | None = None) -> list[str]:
    """Package the bundle in `folder` as `out`, which must be new or empty and appears whole; what to know, a line each.

    Raises UserError for a bundle that was changed, one that the host cannot run, or a folder that has something in it.
    """
    kind = find(name)
    manifest = bundle.read(folder)
    source = Source(folder, manifest, json.loads((folder / "engine" / "engine.json").read_text("utf-8")))
    if source.backend not in kind.backends:
        able = ", ".join(kind.backends)
        hint = f"compile the recipe with one of these: --backend {kind.backends[0]}"
        raise UserError(f"{folder}: its engine is for {source.backend}; {name} runs engines for {able}", hint=hint)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder", hint="name another folder, or remove it")
    scratch = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        notes = kind.fill(source, scratch, runtime)
        scratch.chmod(0o755)
        os.replace(scratch, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}", hint="free space, or name another folder") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return notes
