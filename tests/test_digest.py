"""Digests of sources: a file and the modules beside it that it imports when it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd import digest


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    (folder / "sub").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "sub" / "__init__.py").write_text("")
    (folder / "main.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "import json\n"
        "from pack.near import thing\n"
        "if TYPE_CHECKING:\n    from pack.types import T\n"
        "def f():\n    from .sub import deep\n"
    )
    for name in ("near", "types", "other", "sub/deep"):
        (folder / f"{name}.py").write_text("thing = 1\n")
    return folder


@pytest.mark.parametrize(
    ("name", "counts"), [("main", True), ("near", True), ("sub/deep", True), ("types", False), ("other", False)]
)
def test_what_counts(package: Path, name: str, counts: bool) -> None:
    before = digest.of_source(package / "main.py")
    (package / f"{name}.py").write_text((package / f"{name}.py").read_text() + "# changed\n")
    assert (digest.of_source(package / "main.py") != before) is counts


def test_modules_beside_a_plain_file_count(tmp_path: Path) -> None:
    (tmp_path / "recipe_code.py").write_text("import beside\nimport numpy\n")
    (tmp_path / "beside.py").write_text("a = 1")
    before = digest.of_source(tmp_path / "recipe_code.py")
    (tmp_path / "beside.py").write_text("a = 2")
    assert digest.of_source(tmp_path / "recipe_code.py") != before


def test_of_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("2")
    whole = digest.of_folder(tmp_path)
    assert list(whole) == ["a", "b/c"]
    assert (
        whole["a"] == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    )  # sha256 of "1", as sha256sum prints it
    (tmp_path / "b" / "a").write_text("3")
    assert list(digest.of_folder(tmp_path, frozenset({"a"}))) == ["b/a", "b/c"]
