"""Engines run over whole arrays, in a worker process and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import float_model, write_program
from backends.null_rule import matrix

from edgekd import tasks, worker
from edgekd.errors import UserError

X = np.random.default_rng(0).standard_normal((11, 1, 8, 8)).astype(np.float32)


def compiled(tmp_path: Path, backend: str, batch: int | str = 1) -> Path:
    program, engine = write_program(tmp_path / "program", float_model(batch)), tmp_path / "engine"
    engine.mkdir()
    request = {"backend": backend, "program": str(program), "out": str(engine), "target": {}, "threads": 1}
    assert worker.call("unsupported", request, timeout=60) == {"lines": []}
    facts = worker.call("compile", request, timeout=60)
    assert facts["backend"] == backend
    np.save(tmp_path / "x.npy", X)
    return engine


def request(tmp_path: Path, **more: Any) -> dict[str, Any]:
    paths = {"inputs": [str(tmp_path / "x.npy")], "outputs": [str(tmp_path / "y.npy")]}
    return {"engine": str(tmp_path / "engine"), **paths, **more}


def test_evaluate_in_a_worker_gives_the_outputs_of_every_sample(tmp_path: Path) -> None:
    compiled(tmp_path, "onnxruntime")
    told: list[dict[str, Any]] = []
    found = worker.call("evaluate", request(tmp_path), timeout=60, on_progress=told.append)
    assert found["count"] == 11
    assert told[-1] == {"done": 11, "total": 11}
    whole = np.load(tmp_path / "y.npy")
    assert whole.shape == (11, 5)
    tasks.evaluate(request(tmp_path), told.append)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), whole)


@pytest.mark.parametrize(("engine", "asked"), [("batch", 4), ("batch", 11), (4, 1), (16, 1)])
def test_batches_do_not_change_the_outputs(engine: int | str, asked: int, tmp_path: Path) -> None:
    compiled(tmp_path, "null", engine)
    tasks.evaluate(request(tmp_path, batch=asked), lambda _: None)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), X.reshape(11, 64) @ matrix(0, 64, 5), rtol=1e-4, atol=1e-5)


def test_bad_arrays_are_user_errors_and_leave_no_file(tmp_path: Path) -> None:
    compiled(tmp_path, "null")
    np.save(tmp_path / "x.npy", X[:0])
    with pytest.raises(UserError, match="at least one"):
        worker.call("evaluate", request(tmp_path), timeout=60)
    np.save(tmp_path / "x.npy", X.astype(np.float64))
    with pytest.raises(UserError, match="float64"):
        tasks.evaluate(request(tmp_path), lambda _: None)
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(worker.WorkerError, match="allow_pickle=False"):
        worker.call("evaluate", request(tmp_path), timeout=60)
    assert not (tmp_path / "y.npy").exists()


def test_an_unknown_backend_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no backend named "onxruntime"') as caught:
        worker.call("compile", {"backend": "onxruntime"}, timeout=60)
    assert caught.value.hint == 'did you mean "onnxruntime"?'


def test_a_plugin_backend_is_found_in_the_worker(tmp_path: Path) -> None:
    source = Path(tasks.__file__).parent / "backends" / "null.py"
    (tmp_path / "mine.py").write_text(source.read_text().replace('= "null"', '= "mine"'))
    write_program(tmp_path / "program")
    (tmp_path / "engine").mkdir()
    asked = {"backend": "mine", "program": str(tmp_path / "program"), "out": str(tmp_path / "engine"), "target": {}}
    asked |= {"threads": 1, "plugins": [f"backends={tmp_path / 'mine.py'}"]}
    assert worker.call("compile", asked, timeout=60)["backend"] == "mine"
    np.save(tmp_path / "x.npy", X)
    found = worker.call("evaluate", request(tmp_path, plugins=asked["plugins"]), timeout=60)
    assert found["count"] == 11
