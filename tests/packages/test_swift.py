"""The Swift package, as far as it can be checked without Swift: its layout, its sources parsed. test_native.py runs its C++ side."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from cxx.bundles import CMAKE, write

from edgekd import package


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swift")
    package.write("swift", write(folder / "bundle", "null"), folder / "package")
    return folder / "package"


def test_the_layout_is_a_swift_package(made: Path) -> None:
    manifest = (made / "Package.swift").read_text("utf-8")
    assert manifest.startswith("// swift-tools-version:5.9\n")
    assert 'name: "tiny"' in manifest
    assert "onnxruntime" not in manifest.lower()
    for kind, name in re.findall(r'\.(target|testTarget)\(\s*name: "(\w+)"', manifest):
        assert list((made / ("Tests" if kind == "testTarget" else "Sources") / name).iterdir())
    assert (made / "Sources" / "Edgekd" / "bundle" / "bundle.json").is_file()
    for bracket in ("()", "[]", "{}"):
        assert manifest.count(bracket[0]) == manifest.count(bracket[1])
    target = made / "Sources" / "CEdgekd"
    needed = set(
        re.findall(r"src/(\w+\.cpp)", (CMAKE / "CMakeLists.txt").read_text("utf-8").partition("target_include")[0])
    )
    assert {p.name for p in target.glob("*.cpp")} == needed | {
        "runtimes.cpp",
        "session_null.cpp",
        "runtime_version.cpp",
    }
    for path in [*target.glob("*.cpp"), *target.glob("*.hpp")]:
        assert path.name == "runtimes.cpp" or path.read_bytes() == (CMAKE / "src" / path.name).read_bytes()
        for included in re.findall(r'#include "(.+)"', path.read_text("utf-8")):
            assert (target / included).is_file(), f"{path.name}: {included}"
    headers = re.findall(r'header "(.+)"', (target / "include" / "module.modulemap").read_text("utf-8"))
    assert headers == ["edgekd/edgekd.h", "edgekd/runtimes.h"]
    assert all((target / "include" / header).is_file() for header in headers)


def test_an_onnxruntime_bundle_links_the_runtime_on_apples_systems(tmp_path: Path) -> None:
    package.write("swift", write(tmp_path / "bundle"), tmp_path / "package")
    manifest = (tmp_path / "package" / "Package.swift").read_text("utf-8")
    assert '.define("EDGEKD_ONNXRUNTIME_LINKED", .when(platforms: apple))' in manifest
    assert 'package: "onnxruntime-swift-package-manager", condition: .when(platforms: apple)' in manifest
    sources = {p.name for p in (tmp_path / "package" / "Sources" / "CEdgekd").glob("session_*.cpp")}
    assert sources == {"session_onnxruntime.cpp"}


def test_the_swift_sources_parse(made: Path) -> None:
    tree_sitter = pytest.importorskip("tree_sitter", reason="needs a parser: pip install tree-sitter tree-sitter-swift")
    grammar = pytest.importorskip(
        "tree_sitter_swift", reason="needs a parser: pip install tree-sitter tree-sitter-swift"
    )
    parser = import_module("tree_sitter").Parser(tree_sitter.Language(grammar.language()))
    files = sorted(made.rglob("*.swift"))
    assert [p.name for p in files] == ["Package.swift", "Student.swift", "SelfTest.swift"]
    for path in files:
        tree = parser.parse(path.read_bytes())
        assert not tree.root_node.has_error, path.name
    assert parser.parse(b"func broken( {").root_node.has_error


def test_what_swift_calls_is_in_the_c_api(made: Path) -> None:
    """Every edgekd_ name in the wrapper, and the fields of what it fills in, are in the headers of the module."""
    include = made / "Sources" / "CEdgekd" / "include" / "edgekd"
    api = "".join((include / name).read_text("utf-8") for name in ("edgekd.h", "runtimes.h"))
    source = (made / "Sources" / "Edgekd" / "Student.swift").read_text("utf-8")
    used = set(re.findall(r"\b(?:edgekd|EDGEKD)_\w+", source))
    assert len(used) > 20
    for name in used:
        assert re.search(rf"\b{name}\b", api), name
    for fields in re.findall(r"edgekd_(?:options|const_tensor|tensor)\(([^()]*(?:\([^()]*\))?[^()]*)\)", source):
        for field in re.findall(r"(\w+):", fields):
            assert re.search(rf"\b{field};", api), field
