"""Environments of a backend's own, made by the real pip from wheels that these tests write: no network."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from backends.folders import write_program
from typer.testing import CliRunner

from edgekd import registry
from edgekd.cli import app
from edgekd.environment import Environment
from edgekd.errors import EdgekdError, UserError
from edgekd.pipeline.engines import compile_engine
from edgekd.progress import Progress

QUIET = Progress(quiet=True)
BENEATH = {"numpy": "2.0"}
PLUGIN = '''"""Compiles with a package of its environment, and with another version of one that is installed."""

from edgekd.backend import Backend, write_engine
from edgekd.environment import Environment

__all__ = ["Layered"]


class Layered(Backend):
    name = "layered"
    packages = {"numpy": "numpy"}
    environment = Environment("layered", ("layered==1.0", "iniconfig==999"), 10_000)

    def grid(self, target):
        return "affine"

    def unsupported(self, program, target):
        import layered

        return [] if layered.VALUE == 7 else ["no layer"]

    def compile(self, program, out, target, threads):
        import iniconfig
        import numpy

        (out / "engine.txt").write_text(f"{iniconfig.VERSION} {numpy.__version__}")
        facts = {"backend": self.name, "file": "engine.txt", "versions": self.versions(), "options": {}}
        return write_engine(program, out, facts)

    def load(self, engine):
        raise NotImplementedError
'''


def write_wheel(folder: Path, name: str, version: str, text: str) -> None:
    """A wheel of one module."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    held = {
        f"{name}.py": text,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    held[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*held, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in held.items():
            wheel.writestr(path, content)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where environments go; pip finds the wheels in tmp_path/wheels and nothing else."""
    for name, value in {
        "EDGEKD_ENVIRONMENTS": tmp_path / "environments",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": 1,
        "PIP_FIND_LINKS": tmp_path / "wheels",
    }.items():
        monkeypatch.setenv(name, str(value))
    write_wheel(tmp_path / "wheels", "layered", "1.0", "VALUE = 7\n")
    write_wheel(tmp_path / "wheels", "iniconfig", "999", "VERSION = 999\n")
    write_wheel(tmp_path / "wheels", "broken", "1.0", "import no_such_package\n")
    return tmp_path / "environments"


def left_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.suffix != ".lock")


def test_doctor_makes_it_and_only_the_compiling_worker_sees_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_plugins", {})
    (tmp_path / "layered.py").write_text(PLUGIN)
    registry.add_plugin(f"backends={tmp_path / 'layered.py'}")
    backend = registry.find("backends", "layered")()
    assert backend.missing() == "edgekd doctor --fix layered" and backend.missing(to_open=True) == ""
    assert list(backend.versions()) == ["numpy"]
    program, engine = write_program(tmp_path / "program"), tmp_path / "engine"
    engine.mkdir()
    with pytest.raises(EdgekdError, match="not installed: edgekd doctor --fix layered"):
        compile_engine(program, engine, "layered", {}, 1, 60)

    said = CliRunner().invoke(app, ["doctor", "--fix", "layered", "--json"])
    assert said.exit_code == 0, said.output
    (check,) = [one for one in json.loads(said.stdout) if one["what"] == "layered"]
    assert check["good"] and "layered 1.0, iniconfig 999" in check["found"]
    assert "2 packages, about 10.0 kB" in said.stderr
    (made,) = left_in(place)
    assert made.startswith("layered-")
    assert backend.missing() == "" and backend.versions()["iniconfig"] == "999"
    facts = compile_engine(program, engine, "layered", {}, 1, 60)
    assert facts["versions"] == backend.versions() and (facts["precision"], facts["grid"]) == ("float32", "none")
    assert (engine / "engine.txt").read_text() == f"999 {backend.versions()['numpy']}", "its own in front, ours behind"
    assert find_spec("layered") is None

    shutil.rmtree(tmp_path / "wheels")  # a second time, nothing is installed
    assert CliRunner().invoke(app, ["doctor", "--fix", "layered", "--quiet"]).exit_code == 0
    assert not backend.environment.made({"numpy": "1.0"}), "over another version it is another environment"


def test_what_is_not_whole_is_never_used_and_made_again(place: Path) -> None:
    environment = Environment("layered", ("layered==1.0",), 10_000)
    final = environment.folder(BENEATH)
    for path, marker in ((final, '{"pins": []}'), (place / f".{final.name}-killed", "{}")):
        path.mkdir(parents=True)
        (path / "environment.json").write_text(marker)
    (final / "layered.py").write_text("half")
    assert not environment.made(BENEATH) and environment.versions(BENEATH) == {}
    assert environment.make(BENEATH, QUIET) == final
    assert environment.made(BENEATH) and (final / "layered.py").read_text() == "VALUE = 7\n"
    assert left_in(place) == [final.name]
    assert environment.variables(BENEATH)["PYTHONPATH"].split(os.pathsep)[0] == str(final)


@pytest.mark.parametrize(
    ("pins", "module", "says"),
    [
        (("layered==2.0",), "layered", r"(?s)pip ended with exit code 1:.*  \| ERROR: No matching distribution.*2\.0"),
        (("broken==1.0",), "broken", r"(?s)does not import \(import broken\).*No module named 'no_such_package'"),
    ],
)
def test_a_failure_says_why_and_leaves_nothing(pins: tuple[str, ...], module: str, says: str, place: Path) -> None:
    environment = Environment(module, pins, 10_000)
    with pytest.raises(EdgekdError, match=says):
        environment.make(BENEATH, QUIET)
    assert left_in(place) == [] and not environment.made(BENEATH)


def test_where_there_is_no_room(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"environments: .* free, 2000000 GB are needed") as caught:
        Environment("layered", ("layered==1.0",), 10**15).make(BENEATH, QUIET)
    assert "EDGEKD_ENVIRONMENTS=" in caught.value.hint

    def full(*paths: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(paths[0]))

    environment = Environment("layered", ("layered==1.0",), 10_000)
    with monkeypatch.context() as patch:
        patch.setattr("edgekd.environment.os.replace", full)
        with pytest.raises(EdgekdError, match="No space left on device") as ended:
            environment.make(BENEATH, QUIET)
    assert "20.0 kB of disk" in ended.value.hint and left_in(place) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKD_ENVIRONMENTS", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        Environment("layered", ("layered==1.0",), 10_000).make(BENEATH, QUIET)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fix", "onnxruntime"], 'the backend "onnxruntime" has no environment of its own'),
        (["--fix", "onxruntime"], 'no backend named "onxruntime"'),
        (["onxruntime"], 'no backend named "onxruntime"'),
    ],
)
def test_a_wrong_name_is_the_users_mistake(arguments: list[str], says: str, place: Path) -> None:
    found = CliRunner().invoke(app, ["doctor", *arguments])
    assert isinstance(found.exception, UserError) and says in found.exception.message


def test_doctor_looks_at_the_backends_that_are_named() -> None:
    said = CliRunner().invoke(app, ["doctor", "tensorrt", "null"])
    assert said.exit_code == 0, said.output
    assert [line.split()[1] for line in said.stdout.splitlines() if line[:2] in ("ok", "no")] == ["tensorrt", "null"]
