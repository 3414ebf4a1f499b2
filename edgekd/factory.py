"""A factory: `"fashion:student"` is the function `student` of `fashion.py`, beside the recipe or installed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd import digest
from edgekd.errors import UserError, nearest


@dataclass(frozen=True)
class Factory:
    """`spec` is "package.module:function"; `folder`, the recipe's, is searched before what is installed."""

    spec: str
    folder: Path

    def file(self) -> Path:
        """The source file, found without importing it. Raises UserError if there is none."""
        module, colon, function = self.spec.partition(":")
        if not (colon and module and function):
            raise UserError(f'"{self.spec}" is not a factory', hint='write "module:function", as in "fashion:student"')
        local = self.folder.joinpath(*module.split("."))
        for candidate in (local.with_suffix(".py"), local / "__init__.py"):
            if candidate.is_file():
                return candidate
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            known = [p.stem for p in self.folder.glob("*.py")]
            raise UserError(
                f'"{self.spec}": no module "{module}" in {self.folder} nor installed', hint=nearest(module, known)
            )
        return Path(spec.origin)

    def parameters(self) -> list[str] | None:
        """Names of the function's parameters, read from the source; None if they cannot be read or are any (`**`)."""
        file, name = self.file(), self.spec.partition(":")[2]
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError as error:
            raise UserError(f"{file}:{error.lineno}: {error.msg}") from None
        defined = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)}
        if name not in defined:
            assigned = {
                t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
            }
            imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
            if name not in assigned | imported:
                raise UserError(f'{file}: defines no function "{name}"', hint=nearest(name, defined))
            return None
        node = defined[name]
        if not isinstance(node, ast.FunctionDef) or node.args.kwarg:
            return None
        return [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]

    def digest(self) -> str:
        return digest.of_source(self.file())

    def function(self) -> Callable[..., Any]:
        """Import the module and return the function. Raises UserError with the place where the import failed."""
        file = self.file()
        module, _, name = self.spec.partition(":")
        try:
            with _searched_first(self.folder):
                loaded = sys.modules.get(module)
                if loaded is not None and Path(getattr(loaded, "__file__", None) or "") != file:
                    del sys.modules[module]  # another recipe's module of the same name
                found = getattr(importlib.import_module(module), name)
        except Exception as error:
            raise UserError(
                f'"{self.spec}" does not import: {_place(error, file)}{type(error).__name__}: {error}'
            ) from error
        if not callable(found):
            raise UserError(f'"{self.spec}" is not a function but a {type(found).__name__}')
        return found  # type: ignore[no-any-return]

    def __call__(self, *values: Any, **arguments: Any) -> Any:
        """Call the function. Raises UserError, naming file and line, for whatever it raises."""
        function = self.function()
        try:
            with _searched_first(self.folder):
                return function(*values, **arguments)
        except UserError:
            raise
        except Exception as error:
            message, _, hint = str(error).partition("\nhint: ")
            where = _place(error, self.file())
            raise UserError(f'"{self.spec}" failed: {where}{type(error).__name__}: {message}', hint=hint) from error


@contextmanager
def _searched_first(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _place(error: BaseException, file: Path) -> str:
    """`file:line: ` of the innermost frame in the user's own folder, or nothing."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == file.parent]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
