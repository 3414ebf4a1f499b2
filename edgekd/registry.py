"""The name you type is the file you open: `use = "kl"` in a recipe finds `edgekd/losses/kl.py`.

A registry is a folder of this package. Each of its files exports one name in `__all__`: a frozen dataclass (or a small
class) whose fields are what a recipe may set. There is no list to edit. Outside the tree, `--plugin losses=./mine.py`
or an entry point of the group `edgekd.losses` adds a file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekd.errors import UserError, nearest

FOLDERS = {
    "stages": "stage",
    "losses": "loss",
    "criteria": "criterion",
    "observers": "observer",
    "sources": "source",
    "teachers": "teacher",
    "backends": "backend",
}
"""What one file of each is called."""
NOTHING = (tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE)
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_plugins: dict[str, dict[str, Path]] = {}


def add_plugin(spec: str) -> None:
    """Register a file for this process, from `FOLDER=PATH`: the name is the file's stem."""
    folder, _, path = spec.partition("=")
    if folder not in FOLDERS or not path:
        raise UserError(f"--plugin {spec}: write FOLDER=PATH, as in losses=./mine.py", hint=nearest(folder, FOLDERS))
    file = Path(path).resolve()
    if not file.is_file():
        raise UserError(f"--plugin {spec}: {file} does not exist")
    _plugins.setdefault(folder, {})[file.stem] = file


def plugin_specs() -> list[str]:
    """What was registered in this process, as FOLDER=PATH: a worker process is told the same."""
    return [f"{folder}={file}" for folder, files in _plugins.items() for file in files.values()]


@cache
def _installed(folder: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # slow to import, and not needed to open a bundle

    return {point.name: point.value for point in entry_points(group=f"edgekd.{folder}")}


def names(folder: str) -> list[str]:
    """Every name that a recipe may use, sorted. Imports nothing."""
    here = (p.stem for p in (Path(__file__).parent / folder).glob("*.py") if not p.stem.startswith("_"))
    return sorted({*here, *_plugins.get(folder, {}), *_installed(folder)})


def file_of(folder: str, name: str) -> Path:
    """The file that holds `name`. Raises UserError, naming the nearest, if there is none."""
    if name in _plugins.get(folder, {}):
        return _plugins[folder][name]
    path = Path(__file__).parent / folder / f"{name}.py"
    if path.is_file() and not name.startswith("_"):
        return path
    if name in _installed(folder):
        spec = importlib.util.find_spec(_installed(folder)[name].partition(":")[0])
        if spec and spec.origin:
            return Path(spec.origin)
    raise UserError(f'no {FOLDERS[folder]} named "{name}"', hint=nearest(name, names(folder)))


def find(folder: str, name: str) -> Any:
    """Import the file of `name` and return the one thing that it exports."""
    file = file_of(folder, name)
    if file.parent == Path(__file__).parent / folder:
        module = importlib.import_module(f"edgekd.{folder}.{name}")
    elif name in _plugins.get(folder, {}):
        module = _load_plugin(folder, name, file)
    else:
        target, _, attribute = _installed(folder)[name].partition(":")
        module = importlib.import_module(target)
        if attribute:
            return getattr(module, attribute)
    exported = getattr(module, "__all__", [])
    if len(exported) != 1:
        raise UserError(f"{file}: `__all__` must name exactly one thing, it names {len(exported)}")
    return getattr(module, exported[0])


def _load_plugin(folder: str, name: str, file: Path) -> Any:
    qualified = f"edgekd_plugin.{folder}.{name}"
    if qualified in sys.modules and sys.modules[qualified].__file__ == str(file):
        return sys.modules[qualified]
    spec = importlib.util.spec_from_file_location(qualified, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{file}: does not import: {type(error).__name__}: {error}") from error
    return module


def build(folder: str, name: str, values: Mapping[str, Any]) -> Any:
    """Make the thing called `name` from a recipe's values, types checked.

    Raises UserError naming the field for an unknown field, a missing one, or a value of the wrong type or range.
    """
    kind = find(folder, name)
    if not is_dataclass(kind):
        raise UserError(f"{file_of(folder, name)}: {name} must be a dataclass")
    known = [f.name for f in fields(kind) if f.init]
    for key in values:
        if key not in known:
            raise UserError(f'the {FOLDERS[folder]} "{name}" has no field "{key}"', hint=nearest(key, known))
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f'the {FOLDERS[folder]} "{name}": {field}: {first["msg"]}') from None


def fields_of(folder: str, name: str) -> list[str]:
    """Fields of the dataclass called `name`, read without importing it: what a recipe may set."""
    return [field["name"] for field in _fields(_body(folder, name))]


def flag(folder: str, name: str, attribute: str) -> bool:
    """Whether the class called `name` sets this class variable to True, read without importing it."""
    return constant(folder, name, attribute) is True


def parameters(folder: str, name: str) -> list[str]:
    """Fields of the dataclass called `name` but for the first, which edgekd fills in."""
    return fields_of(folder, name)[1:]


def constant(folder: str, name: str, attribute: str) -> Any:
    """What the class called `name` sets `attribute` to, read without importing it; None if it is not there or not a literal."""
    for node in _body(folder, name):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if attribute in map(ast.unparse, targets) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                return None
    return None


def describe(folder: str, name: str) -> dict[str, Any]:
    """What the file says of `name`, read without importing it: {"name", "summary", "text", "fields"}.

    `text` is the class's docstring, with its source; each field is {"name", "type", "range", "default"}, as the file writes
    them, `default` None where there is none.
    """
    tree = _tree(folder, name)
    summary = (ast.get_docstring(tree) or "").partition("\n")[0]
    kind = _class(tree)
    fields = _fields(kind.body if kind else [])
    return {"name": name, "summary": summary, "text": (kind and ast.get_docstring(kind)) or "", "fields": fields}


def _tree(folder: str, name: str) -> ast.Module:
    file = file_of(folder, name)
    try:
        return ast.parse(file.read_text("utf-8"))
    except SyntaxError as error:
        raise UserError(f"{file}:{error.lineno}: {error.msg}") from None


def _class(tree: ast.Module) -> ast.ClassDef | None:
    """The class that a file exports; None for a file that exports another way."""
    exported = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    names = ast.literal_eval(exported[0]) if exported else []
    return next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name in names), None)


def _body(folder: str, name: str) -> list[ast.stmt]:
    kind = _class(_tree(folder, name))
    return kind.body if kind else []


def _fields(body: list[ast.stmt]) -> list[dict[str, Any]]:
    found = [n for n in body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n.annotation)]
    return [
        {
            "name": ast.unparse(node.target),
            "type": _type(node.annotation)[0],
            "range": _type(node.annotation)[1],
            "default": ast.unparse(node.value) if node.value else None,
        }
        for node in found
    ]


def _type(annotation: ast.expr) -> tuple[str, str]:
    """`Annotated[float, Field(gt=0)]` as ("float", "> 0"); the range of any other is empty."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        kind, *more = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        limits = [word for call in more if isinstance(call, ast.Call) for word in call.keywords if word.arg in SIGNS]
        return ast.unparse(kind), ", ".join(f"{SIGNS[str(word.arg)]} {ast.unparse(word.value)}" for word in limits)
    return ast.unparse(annotation), ""


def summaries(folder: str) -> Iterator[tuple[str, str]]:
    """(name, first line of its docstring) of each file, read without importing it."""
    for name in names(folder):
        yield name, _summary(file_of(folder, name))


def _summary(file: Path) -> str:
    """The first line of a module's docstring, by reading no further than that."""
    with file.open("rb") as stream:
        for token in tokenize.tokenize(stream.readline):
            if token.type == tokenize.STRING:
                return inspect.cleandoc(str(ast.literal_eval(token.string))).partition("\n")[0]
            if token.type not in NOTHING:
                return ""
    return ""
