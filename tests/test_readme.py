"""What the README says works: its commands, its recipe, its Python, its links. The demo itself is run by its own test."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgekd
from edgekd import recipe, registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "targets").glob("*.md"),
    *(ROOT / "calibration").glob("*.md"),
]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
INDENTED = [line.strip().partition("#")[0].strip() for line in README.splitlines() if line.startswith("    ")]
SPANS = re.findall(r"`((?:edgekd|make) [^`]+)`", README)
COMMANDS = sorted({c for c in (*INDENTED, *SPANS) if c.startswith("edgekd ")})
CHEAP = {"edgekd schema", "edgekd new mynet", *(c for c in COMMANDS if c.startswith("edgekd list"))}


def edgekd_ran(*arguments: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"edgekd {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_first_screen_shows_the_demo_and_the_two_commands() -> None:
    lines = README.splitlines()
    start, end = lines.index("<!-- demo -->"), lines.index("<!-- /demo -->")
    assert start < end
    assert "make demo" in lines[start + 1]
    first = [next(i for i, line in enumerate(lines) if line.strip().startswith(c)) for c in ("make demo", "make test")]
    assert first == sorted(first)


@pytest.mark.parametrize("command", sorted({c for c in (*INDENTED, *SPANS) if c.startswith("make ")}))
def test_make_knows_its_targets(command: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(re.findall(r"^make (\w+) ", shown, re.MULTILINE)) == set(phony.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_edgekd_knows_its_commands_and_options(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)[1:]
    if command in CHEAP:
        assert edgekd_ran(*words, cwd=tmp_path)
        return
    name = words[: 2 if words[0] in ("store", "targets") else 1]
    page = edgekd_ran(*name, "--help")
    for word in words:
        if word.startswith("--"):
            assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", page), f"edgekd {' '.join(name)} has no {word}"


def test_the_table_names_every_command() -> None:
    (listed,) = re.findall(r"^Commands:\n(.*?)\n\n", edgekd_ran("--help") + "\n\n", re.DOTALL | re.MULTILINE)
    commands = set(re.findall(r"^  (\w+)  ", listed, re.MULTILINE))
    assert commands
    assert commands == set(re.findall(r"^\| `edgekd (\w+)", README, re.MULTILINE))


def test_the_recipe_is_read(tmp_path: Path) -> None:
    (text,) = (block for language, block in BLOCKS if language == "toml")
    for name in ("fashion.py", "teacher.safetensors"):
        shutil.copyfile(ROOT / "examples" / "fashion" / name, tmp_path / name)
    (tmp_path / "recipe.toml").write_text(text)
    loaded = recipe.load(tmp_path / "recipe.toml", ["distill.epochs=2"])
    assert [type(stage).__module__.rpartition(".")[2] for stage in loaded.stages] == ["distill", "prune", "quantize"]
    real = (ROOT / "examples" / "fashion" / "recipe.toml").read_text("utf-8")
    assert tomllib.loads(text) == tomllib.loads(real), (
        "README.md shows another recipe than examples/fashion/recipe.toml"
    )


def test_the_python_snippets_name_what_there_is() -> None:
    snippets = [block for language, block in BLOCKS if language == "python"]
    assert snippets
    for snippet in snippets:
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edgekd":
                assert node.attr in edgekd.__all__


def test_extras_and_registries_are_named_as_they_are() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    (section,) = re.findall(r"^## More backends\n\n(.*?)\n\n", README, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"edgekd\[(\w+)\]|`(\w+)`", section.partition("`edgekd list")[0])) >= {
        ("", "tvm"),
        ("openvino", ""),
    }
    named = {a or b for a, b in re.findall(r"edgekd\[(\w+)\]|`(\w+)`", section.partition("`edgekd list")[0])}
    assert named == extras - {"dev"}
    (row,) = (line for line in README.splitlines() if line.startswith("| `edgekd list losses`"))
    assert {"losses", *re.findall(r"`(\w+)`", row)} == {*registry.FOLDERS, "targets", "calibration"} - {"stages"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_architecture_names_every_folder_and_file_of_the_package() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_]+(?:\.py|/))`", page))
    there = {p.name for p in (ROOT / "edgekd").glob("*.py")} | {
        f"{p.parent.name}/" for p in (ROOT / "edgekd").glob("*/__init__.py")
    }
    missing = there - named - {"__init__.py", "__main__.py"}
    assert not missing, f"ARCHITECTURE.md does not name {sorted(missing)}"
    nested = {p.name for p in (ROOT / "edgekd").rglob("*.py")}
    assert {name for name in named if name.endswith(".py")} <= nested
