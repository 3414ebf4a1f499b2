"""The rules of the house, as tests: what ARCHITECTURE.md calls an invariant and a reviewer would otherwise have to see."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from dataclasses import is_dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import edgekd
from edgekd import registry
from edgekd.target import Calibration, Target, data_dir, find_calibration, find_target, names

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgekd"
MAX_LINES = 300
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc", "tools"}
UNPICKLING = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
HEAVY = {"onnx", "onnxruntime", "onnxscript", "scipy", "torch", "torch_pruning", "torchao"}
CITED = ("losses", "criteria", "observers")
MADE_FROM_RECIPES = ("stages", "losses", "criteria", "observers", "sources")

SOURCES = [
    path
    for folder in ("edgekd", "examples", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "__pycache__" not in path.parts
]
OWN = [path for path in SOURCES if "tests" not in path.relative_to(ROOT).parts]
ENTRIES = [(folder, name) for folder in registry.FOLDERS for name in registry.names(folder)]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@pytest.mark.parametrize("path", OWN, ids=shown)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= MAX_LINES, f"{shown(path)} has {lines} lines: two rooms in one?"


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_names_say_what_is_inside(path: Path) -> None:
    words = {*path.relative_to(ROOT).with_suffix("").parts, *path.stem.split("_")}
    assert not words & SAYS_NOTHING, f"{shown(path)}: name it by the field's word for what it holds"


@pytest.mark.parametrize("path", OWN, ids=shown)
def test_every_file_says_what_it_is(path: Path) -> None:
    first = (ast.get_docstring(parsed(path)) or "").partition("\n")[0]
    assert len(first) > 20, f"{shown(path)}: the module's docstring begins with one line that says what it is"
    assert first.endswith((".", ":", ";", ",", "?")) or path.parent != PACKAGE, (
        f"{shown(path)}: {first!r} is not a sentence"
    )


@pytest.mark.parametrize("path", OWN, ids=shown)
def test_nothing_read_is_run(path: Path) -> None:
    """Neither pickle, nor a shell, nor eval: loading an artefact runs no code from it (docs/decisions/0003)."""
    for node in ast.walk(parsed(path)):
        where = f"{shown(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not {m.partition(".")[0] for m in modules} & UNPICKLING, f"{where}: imports {modules}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert called not in ("eval", "exec", "os.system", "os.popen"), f"{where}: {called}"
            assert given.get("shell") != "True", f"{where}: shell=True"
            assert given.get("allow_pickle") != "True", f"{where}: allow_pickle=True"
            if called == "torch.load":
                assert given.get("weights_only") == "True", f"{where}: torch.load without weights_only=True"


@pytest.mark.parametrize("path", OWN, ids=shown)
def test_nothing_is_left_over(path: Path) -> None:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        assert not re.search(r"\b(T[O]DO|F[I]XME|X[X]X|H[A]CK)\b", line), f"{shown(path)}:{number}: {line.strip()}"
        assert not re.search(r"(?<![\w.$}])/(?:home|root|tmp|work)/\w+", line), (
            f"{shown(path)}:{number}: one machine's path"
        )


@pytest.mark.parametrize(("folder", "name"), ENTRIES)
def test_a_registry_file_exports_one_class(folder: str, name: str) -> None:
    module = importlib.import_module(f"edgekd.{folder}.{name}")
    assert len(module.__all__) == 1, f"edgekd/{folder}/{name}.py: __all__ names {module.__all__}"
    kind = registry.find(folder, name)
    assert inspect.isclass(kind), f"edgekd/{folder}/{name}.py exports {kind!r}"
    assert kind.__module__ == module.__name__, f"edgekd/{folder}/{name}.py exports what {kind.__module__} defines"
    assert not inspect.isabstract(kind), f"{kind.__name__} leaves {sorted(kind.__abstractmethods__)} undone"
    if folder in MADE_FROM_RECIPES:
        assert is_dataclass(kind), f"{kind.__name__}: its fields are what a recipe may set, so it is a dataclass"


@pytest.mark.parametrize(("folder", "name"), [e for e in ENTRIES if e[0] in CITED])
def test_a_formula_names_its_source(folder: str, name: str) -> None:
    text = " ".join(
        ast.get_docstring(node) or ""
        for node in ast.walk(parsed(registry.file_of(folder, name)))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    )
    assert re.search(r"\b(19|20)\d\d\b", text), f"edgekd/{folder}/{name}.py: no author and year in its docstrings"
    assert re.search(r"arXiv|doi|Source:|section|equation|eq\.", text), f"edgekd/{folder}/{name}.py: no paper named"


@pytest.mark.parametrize("folder", registry.FOLDERS)
def test_summaries_are_read_without_importing(folder: str) -> None:
    found = dict(registry.summaries(folder))
    assert found, f"edgekd/{folder}/ holds nothing"
    for name, summary in found.items():
        assert 10 < len(summary) <= 120, f"edgekd/{folder}/{name}.py: first line {summary!r}"


def test_every_module_imports() -> None:
    modules = [m.name for m in pkgutil.walk_packages(edgekd.__path__, "edgekd.")]
    assert len(modules) > 20
    for name in modules:
        importlib.import_module(name)


def test_every_import_is_a_dependency() -> None:
    """What the package imports is declared in pyproject.toml, as edgekd's own need or as an extra's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[<>=\[ ]", d)[0].lower() for d in declared}
    providers = packages_distributions()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(parsed(path)):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {m.partition(".")[0] for m in modules} - set(sys.stdlib_module_names) - {"edgekd"}:
                found = {name.lower().replace("_", "-") for name in providers.get(top, [])}
                by = {name for name in names for one in found if one == name or one.startswith(f"{name}-cu")}
                assert not found or by, f"{shown(path)}: {top}, of {sorted(found)}, is no dependency"


def modules_after(code: str, *argv: str) -> set[str]:
    """Top-level names in sys.modules after `code` ran in a fresh interpreter whose sys.argv is `argv`."""
    program = (
        f"import sys; sys.argv = {list(argv)!r}; before = set(sys.modules)\n"
        f"try:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "found = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "print('MODULES', *found, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CI": "true"},
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stderr.rpartition("MODULES")[2].split())


def test_importing_edgekd_imports_nothing_else() -> None:
    foreign = modules_after("import edgekd") - set(sys.stdlib_module_names)
    assert foreign == {"edgekd"}


@pytest.mark.parametrize(
    "argv",
    [
        ("--help",),
        ("--version",),
        ("compile", "--help"),
        *[("list", folder) for folder in (*registry.FOLDERS, "targets")],
    ],
    ids=" ".join,
)
def test_what_only_tells_imports_no_runtime(argv: tuple[str, ...]) -> None:
    found = modules_after("import runpy; runpy.run_module('edgekd', run_name='__main__')", "edgekd", *argv)
    assert "edgekd" in found
    assert not found & HEAVY, f"edgekd {' '.join(argv)} imports {sorted(found & HEAVY)}"


@pytest.mark.parametrize("name", names("targets"))
def test_targets_are_valid(name: str) -> None:
    found = find_target(name, ROOT)
    given = tomllib.loads((data_dir("targets") / f"{name}.toml").read_text("utf-8"))
    for fact in {*given} - {"reach", "sources", "notes"}:
        page = found.source_of(fact)
        assert page, f"targets/{name}.toml: {fact} has no source"
        assert re.search(r"\b20\d\d-\d\d-\d\d$", page), f"targets/{name}.toml: {fact}: the source ends in no date"
    assert found.notes, f"targets/{name}.toml: `notes` says what could not be found, or why"


@pytest.mark.parametrize("name", names("calibration"))
def test_calibration_recipes_are_valid(name: str) -> None:
    assert find_calibration(name, ROOT).notes, f"calibration/{name}.toml: `notes` says when to choose it"


@pytest.mark.parametrize(("kind", "model"), [("targets", Target), ("calibration", Calibration)])
def test_each_field_is_documented(kind: str, model: type[Target] | type[Calibration]) -> None:
    page = (data_dir(kind) / "README.md").read_text("utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rows == set(model.model_fields) - {"name"}, f"{kind}/README.md and edgekd/target.py differ"
    used = {key for path in data_dir(kind).glob("*.toml") for key in tomllib.loads(path.read_text("utf-8"))}
    assert used <= rows
