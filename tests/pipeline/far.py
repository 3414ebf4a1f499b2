"""A backend for the tests, whose compiler and engines are on the device: here it keeps the program's model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn, final

from edgekd.backend import BUILD, Backend, write_engine
from edgekd.errors import UserError

__all__ = ["Far"]


@final
class Far(Backend):
    """Its engines open on their device only."""

    name: ClassVar[str] = "far"
    packages: ClassVar[Mapping[str, str]] = {"onnx": "onnx"}
    on_device: ClassVar[str] = "nothing"
    compile_only: ClassVar[str] = "a far engine opens on its device only"

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        return []

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        shutil.copyfile(program / "model.onnx", out / "model.onnx")
        (out / BUILD).mkdir()
        (out / BUILD / "script.py").write_text("raise SystemExit")
        facts = {"backend": self.name, "file": "model.onnx", "versions": {}, "threads": 1, "options": {}}
        return write_engine(program, out, facts)

    def load(self, engine: Path) -> NoReturn:
        raise UserError(self.compile_only)
