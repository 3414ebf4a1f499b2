"""`edgekd package`: what every host has in common: a checked bundle inside, whole or not at all, errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cxx.bundles import changed, write
from typer.testing import CliRunner

from edgekd import bundle as bundles
from edgekd import package
from edgekd.cli import app
from edgekd.errors import UserError

HOSTS = {"android": "student/src/main/cpp/bundle", "swift": "Sources/Edgekd/bundle"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bundle"))


def test_the_name_is_the_file() -> None:
    assert package.names() == ["android", "swift", "web"]
    for name in package.names():
        found = package.find(name)
        assert found.name == name
        assert "onnxruntime" in found.backends
    with pytest.raises(UserError, match='no package "andriod"\nhint: did you mean "android"?'):
        package.find("andriod")


@pytest.mark.parametrize("host", HOSTS)
def test_the_bundle_inside_is_whole(host: str, bundle: Path, tmp_path: Path) -> None:
    notes = package.write(host, bundle, tmp_path / "out")
    assert notes[0].startswith("not built here: README.md says how ")
    assert bundles.read(tmp_path / "out" / HOSTS[host])["name"] == "tiny"
    assert "**Not built here.**" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    left = [p for p in (tmp_path / "out").rglob("*") if p.suffix == ".j2" or p.name == "__pycache__"]
    assert not left
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.suffix in {".kts", ".kt", ".swift", ".md", ".xml"}:
            text = path.read_text("utf-8")
            assert "{%" not in text
            assert "{{" not in text


def test_what_is_wrong_is_said_and_nothing_is_left(bundle: Path, tmp_path: Path) -> None:
    other = changed(bundle, tmp_path / "other", "engine/engine.json", backend="tvm")
    with pytest.raises(
        UserError,
        match=r"its engine is for tvm; swift runs engines for onnxruntime, null\nhint: .*--backend onnxruntime",
    ):
        package.write("swift", other, tmp_path / "out")
    broken = changed(bundle, tmp_path / "broken", "bundle.json")
    (broken / "golden.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"golden\.npz was changed"):
        package.write("swift", broken, tmp_path / "out")
    with pytest.raises(UserError, match="not a bundle"):
        package.write("swift", tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="full exists and is not an empty folder\nhint: name another folder"):
        package.write("android", bundle, tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write "):
        package.write("android", bundle, tmp_path / "file" / "out")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "file", "full", "other"]


def test_a_name_becomes_an_identifier(bundle: Path, tmp_path: Path) -> None:
    odd = changed(bundle, tmp_path / "odd", "bundle.json", name='3 "nets" & <more>')
    package.write("android", odd, tmp_path / "android")
    gradle = (tmp_path / "android" / "student" / "build.gradle.kts").read_text("utf-8")
    assert 'namespace = "dev.edgekd.student_3_nets_more"' in gradle


def test_the_command(bundle: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["package", "swift", str(bundle), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["host"] == "swift"
    assert said["out"] == str(tmp_path / "out")
    assert len(said["notes"]) == 1
    assert (tmp_path / "out" / "Package.swift").is_file()
