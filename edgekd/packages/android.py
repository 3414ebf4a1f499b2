"""An Android library: a Gradle module with the bundle inside, the C API in its AAR, and a Kotlin wrapper over JNI.

Laid out, not built: no NDK is needed here, and the README.md inside says so.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar, final

from edgekd.package import CMAKE_ONLY, Package, Source
from edgekd.target import data_dir

__all__ = ["Android"]


@final
class Android(Package):
    """Kotlin and C, arm64-v8a, armeabi-v7a and x86_64."""

    name: ClassVar[str] = "android"
    backends: ClassVar[tuple[str, ...]] = ("onnxruntime", "null")

    def fill(self, source: Source, out: Path, runtime: Path | None) -> list[str]:
        self.copy(out, source=source)
        native = out / "student" / "src" / "main" / "cpp"
        shutil.copytree(data_dir("cmake"), native / "edgekd", ignore=CMAKE_ONLY)
        shutil.copytree(source.folder, native / "bundle")
        return ["not built here: README.md says how Gradle builds the AAR, and tests it on a device"]
