"""Digests: what a result depends on, as sha256 in hex. Nothing is cut short, nothing is imported to be digested."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any


def of_json(value: Any) -> str:
    """Digest of plain values, whatever the order of their keys.

    >>> of_json({"a": 1, "b": 2}) == of_json({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_folder(folder: Path, skip: frozenset[str] = frozenset()) -> dict[str, str]:
    """Relative path -> digest of every file under `folder`, sorted, without the top-level names in `skip`."""
    files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: of_file(path) for name, path in files.items() if name not in skip}


def of_source(file: Path) -> str:
    """Digest of a Python file and of the modules beside it that it imports, at any depth.

    Only files under the folder of the outermost package (or of the file itself, outside a package) count: what is
    installed from elsewhere is pinned by its version. Imports under `if TYPE_CHECKING:` do not run and do not count.
    """
    return of_json({str(i): of_file(path) for i, path in enumerate(sorted(_closure(file.resolve())))})


@cache
def _closure(file: Path) -> frozenset[Path]:
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    found: set[Path] = set()
    todo = [file]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for name in imported_names(path, root):
            module = root.joinpath(*name.split("."))
            todo.extend(p for p in (module.with_suffix(".py"), module / "__init__.py") if p.is_file())
    return frozenset(found)


@cache
def imported_names(path: Path, root: Path) -> frozenset[str]:
    """Dotted names that the file imports when it runs; `from a import b` gives both `a` and `a.b`."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return frozenset()
    names: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(root).parent.parts
                kept = package[: len(package) - node.level + 1]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))
    return frozenset(names - {""})
