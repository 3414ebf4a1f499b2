"""Engines that are kept busy: simulated ones, whose truth is known, and a real one through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from backends.folders import write_program
from project import edgekd as command
from project import here

from edgekd import bundle
from edgekd.backend import Signature, open_backend
from edgekd.errors import UserError
from edgekd.latency.sustained import sustain
from edgekd.latency.throughput import throughput
from edgekd.report.sustained import draw


def simulated(folder: Path, name: str, seconds: float, noise: dict[str, Any] | None = None) -> Path:
    program, out = write_program(folder / "program"), folder / name
    out.mkdir()
    settings = {"seconds": seconds, "seconds_per_byte": 0.0, "noise": noise or {}}
    open_backend("null").compile(program, out, {"null": settings}, 1)
    return out


def test_a_device_that_gets_hot_shows_when_and_by_how_much(tmp_path: Path) -> None:
    """1 ms a call for the first second, then 1.5 ms: of four half-second windows two are slow."""
    engine = simulated(tmp_path, "hot", 0.001, {"hot_after": 1.0, "hot_factor": 1.5})
    told: list[dict[str, Any]] = []
    found = sustain(engine, seconds=2.0, windows=4, on_progress=told.append)
    assert [round(w.median * 1e3, 6) for w in found.windows] == [1.0, 1.0, 1.5, 1.5]
    assert [round(w.start, 1) for w in found.windows] == [0.0, 0.5, 1.0, 1.5]
    assert found.windows[0].calls == pytest.approx(500, abs=20)
    ratio = found.ratio()
    assert ratio.point == pytest.approx(1.5) and ratio.low == pytest.approx(1.5) and ratio.excludes_one
    assert told[-1] == {"done": 2.0, "total": 2.0}
    kept = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert kept["windows"][3]["median"] == pytest.approx(0.0015)
    picture = draw(found, "hot")
    assert picture.startswith("<svg") and picture.count("<circle") >= 40


def test_one_that_stays_cool_takes_the_same_in_the_end(tmp_path: Path) -> None:
    found = sustain(simulated(tmp_path, "cool", 0.001, {"spread": 0.02}), seconds=2.0, windows=4).ratio()
    assert found.low < 1 < found.high
    assert found.high / found.low < 1.05


def test_a_run_that_is_too_short_is_refused(tmp_path: Path) -> None:
    engine = simulated(tmp_path, "slow", 0.05)
    with pytest.raises(UserError, match=r"a window of 0\.1 s holds \d blocks of calls, 5 are needed"):
        sustain(engine, seconds=0.2, windows=2)
    with pytest.raises(UserError, match="more than 0 seconds"):
        sustain(engine, seconds=0, windows=2)


def test_throughput_of_simulated_streams_is_exact(tmp_path: Path) -> None:
    """2 ms a call: 500 calls a second in one stream, 1,500 in three."""
    engines = {"a": simulated(tmp_path, "a", 0.002), "b": simulated(tmp_path, "b", 0.004)}
    for streams in (1, 3):
        found = throughput(engines, streams=streams, processes=2, seconds=0.2)
        assert found["a"].mean == pytest.approx(500 * streams)
        assert found["b"].mean == pytest.approx(250 * streams)
        assert found["a"].low <= found["a"].mean <= found["a"].high


def test_a_batch_that_an_engine_does_not_take_is_refused(tmp_path: Path) -> None:
    engine = simulated(tmp_path, "a", 0.002)
    fixed = isinstance(Signature.read(engine).inputs[0].shape[0], int)
    if fixed:
        with pytest.raises(UserError, match="has a fixed batch, so a batch of 4 does not fit"):
            throughput({"a": engine}, streams=1, batch=4, processes=1, seconds=0.1)
    else:
        assert throughput({"a": engine}, streams=1, batch=4, processes=1, seconds=0.1)["a"].mean == pytest.approx(2000)
    with pytest.raises(UserError, match="at least one stream"):
        throughput({"a": engine}, streams=0)


def test_the_command(tmp_path: Path) -> None:
    engine = simulated(tmp_path, "engine", 0.001)
    (inputs,) = Signature.read(engine).noise(0)
    bundle.write(tmp_path / "bundle", engine, {"name": "simulated"}, {"inputs": inputs}, [], [])
    done = command(
        "measure", tmp_path / "bundle", "--streams", "2", "--seconds", "0.2", "--processes", "1", "--quiet", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[str(tmp_path / "bundle")]["mean"] == pytest.approx(2000)
    done = command("measure", tmp_path / "bundle", "--sustained", "2 s", "--quiet", "--svg", tmp_path / "run.svg")
    assert done.returncode == 0, done.stderr
    assert "take 1.000× the first's median" in done.stdout
    assert (tmp_path / "run.svg").read_text().startswith("<svg")
    done = command("measure", tmp_path / "bundle", "--sustained", "long")
    assert done.returncode == 2 and "--sustained" in done.stderr and "Traceback" not in done.stderr
    said = here("measure", tmp_path / "bundle", "--sustained", "1 h", "--svg", tmp_path / "nowhere" / "run.svg")
    assert said.returncode == 2 and "run.svg" in said.stderr, "not after an hour"
