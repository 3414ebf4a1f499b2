"""A Swift package: the bundle as its resource, edgekd's C++ library as a target with a module map, and a Swift wrapper.

Laid out, not built: no Xcode is needed here, and the README.md inside says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar, final

from edgekd.package import Package, Source
from edgekd.target import data_dir

__all__ = ["Swift"]

RUNNER = (  # edgekd-bench's own
    "bench.cpp",
    "energy.cpp",
    "energy.hpp",
    "machine.cpp",
    "machine.hpp",
    "racer.hpp",
    "serve.cpp",
    "serve.hpp",
)


@final
class Swift(Package):
    """Swift and C, for iOS, macOS and Linux."""

    name: ClassVar[str] = "swift"
    backends: ClassVar[tuple[str, ...]] = ("onnxruntime", "null")

    def fill(self, source: Source, out: Path, runtime: Path | None) -> list[str]:
        self.copy(out, source=source)
        target, library = out / "Sources" / "CEdgekd", data_dir("cmake")
        for path in sorted((library / "src").iterdir()):
            other_session = path.name.startswith("session_") and path.name != f"session_{source.backend}.cpp"
            if not (other_session or path.name.startswith("module_") or path.name in RUNNER):
                shutil.copyfile(path, target / path.name)
        for header in ("edgekd.h", "linked.h"):
            shutil.copyfile(library / "include" / "edgekd" / header, target / "include" / "edgekd" / header)
        shutil.copytree(source.folder, out / "Sources" / "Edgekd" / "bundle")
        return ["not built here: README.md says how Swift's package manager builds and tests it"]
