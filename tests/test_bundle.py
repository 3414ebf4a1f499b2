"""The bundle: refused if anything in it changed; opened without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from edgekd import bundle
from edgekd.backend import Array, Session, Signature, open_backend
from edgekd.errors import UserError

SIGNATURE = {
    "inputs": [{"name": "input", "shape": [1, 3], "dtype": "float32"}],
    "outputs": [{"name": "output", "shape": [1, 2], "dtype": "float32"}],
    "preprocessing": {"mean": [0.5]},
    "labels": ["cat", "dog"],
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    program, engine = tmp_path / "program", tmp_path / "engine"
    program.mkdir(), engine.mkdir()
    (program / "signature.json").write_text(json.dumps(SIGNATURE))
    (program / "program.json").write_text(json.dumps({"precision": "float32", "grid": "none"}))
    (program / "model.onnx").write_bytes(b"")
    open_backend("null").compile(program, engine, {}, 1)
    licence = tmp_path / "LICENSE.data"
    licence.write_text("free")
    inputs = np.ones((1, 3), np.float32)
    bundle.write(tmp_path / "out" / "host", engine, {"name": "x"}, {"inputs": inputs}, [licence], ["numpy"])
    return tmp_path / "out" / "host"


def test_it_opens_and_runs(made: Path) -> None:
    manifest = bundle.read(made)
    assert manifest["signature"]["labels"] == ["cat", "dog"]
    names = {p.name for p in (made / "licences").iterdir()}
    assert "LICENSE.data" in names and any(name.startswith("numpy-") for name in names)
    with bundle.load(made) as session:
        (outputs,) = session.run([np.ones((1, 3), np.float32)])
        assert outputs.shape == (1, 2)


def test_torch_is_not_needed(made: Path) -> None:
    code = f"import sys, edgekd; edgekd.load({str(made)!r}).close(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_one_flipped_byte_anywhere_is_refused(made: Path) -> None:
    for path in files(made):
        whole = path.read_bytes()
        if path.name == "bundle.json" or not whole:
            continue
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(UserError, match="was changed"):
            bundle.load(made)
        path.write_bytes(whole)
    bundle.read(made)


def test_cut_at_any_of_a_hundred_places_it_is_refused(made: Path) -> None:
    whole = {path: path.read_bytes() for path in files(made)}
    random, total = np.random.default_rng(4), sum(map(len, whole.values()))
    cuts = [(path, int(at)) for path in whole for at in random.integers(0, max(len(whole[path]), 1), 12) if whole[path]]
    assert len(cuts) >= 100 and total > 1000
    for path, at in cuts:
        path.write_bytes(whole[path][:at])
        with pytest.raises(UserError, match=r"was changed|is damaged"):
            bundle.load(made)
        path.write_bytes(whole[path])
    bundle.load(made).close()


def test_threads_that_share_a_student_take_turns(made: Path) -> None:
    """Each gets the answers to its own inputs."""
    with bundle.load(made) as student:
        inputs = [np.full((1, 3), value, np.float32) for value in (1.0, -2.0, 0.5)]
        wanted = [student.run([x])[0] for x in inputs]

        def right(index: int) -> bool:
            return all((student.run([inputs[index]])[0] == wanted[index]).all() for _ in range(300))

        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(right, range(3))) == [True] * 3


class Slow(Session):
    """Computes until it is told to end."""

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature)
        self.begun, self.may_end, self.released = Event(), Event(), False

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        self.begun.set()
        assert self.may_end.wait(20) and not self.released
        return [inputs[0][:, :2]]

    def release(self) -> None:
        self.released = True


def test_closing_waits_for_the_call_that_is_under_way(made: Path) -> None:
    student, x = Slow(Signature.read(made / "engine")), np.ones((1, 3), np.float32)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(student.run, [x])
        assert student.begun.wait(20)
        closing = pool.submit(student.close)
        with pytest.raises(TimeoutError):
            closing.result(0.05)
        assert not student.released
        student.may_end.set()
        assert running.result(20)[0].shape == (1, 2)
        closing.result(20)
    assert student.released
    with pytest.raises(UserError, match="this session was closed"):
        student.run([x])


def test_missing_and_unknown_files_are_refused(made: Path) -> None:
    (made / "extra").write_text("x")
    with pytest.raises(UserError, match="extra is not of the bundle"):
        bundle.read(made)
    (made / "extra").unlink()
    (made / "engine" / "bundle.json").write_text("{}")  # neither does a name that means something at the top
    with pytest.raises(UserError, match=r"engine/bundle\.json is not of the bundle"):
        bundle.read(made)
    (made / "engine" / "bundle.json").unlink()
    (made / "golden.npz").unlink()
    with pytest.raises(UserError, match=r"golden.npz is missing"):
        bundle.read(made)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": 1}', '{"format": 99, "files": {}}', '{"format": 1, "files": [["a", "b"]]}']
)
def test_a_damaged_manifest(made: Path, text: str) -> None:
    (made / "bundle.json").write_text(text)
    with pytest.raises(UserError, match=r"damaged|format 99"):
        bundle.load(made)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a bundle"):
        bundle.load(tmp_path)


def test_writing_again_replaces_it_whole(made: Path, tmp_path: Path) -> None:
    bundle.write(made, tmp_path / "engine", {"name": "second"}, {"inputs": np.zeros(1)}, [], [])
    assert bundle.read(made)["name"] == "second"
    assert [p.name for p in made.parent.iterdir()] == ["host"]
