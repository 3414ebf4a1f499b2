"""Races of simulated devices, whose truth is known, and one of real engines. Real processes unless said."""

from __future__ import annotations

import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import int8_model, write_program

from edgekd.backend import open_backend
from edgekd.errors import UserError
from edgekd.latency import statistics
from edgekd.latency.race import Race, race
from edgekd.latency.rounds import make_plan, measure
from edgekd.worker import WorkerError

NOISE = {"spread": 0.05, "process": 0.01, "outliers": 0.01, "cold_calls": 20}


def simulated(folder: Path, name: str, seconds: float, noise: dict[str, Any] | None = None, **more: Any) -> Path:
    program, out = write_program(folder / "program"), folder / name
    out.mkdir()
    settings = {"seconds": seconds, "seconds_per_byte": 0.0, "noise": noise or {}, **more}
    open_backend("null").compile(program, out, {"null": settings}, 1)
    return out


def test_a_noiseless_race_is_exact_and_can_be_kept(tmp_path: Path) -> None:
    engines = {"slow": simulated(tmp_path, "slow", 0.004), "fast": simulated(tmp_path, "fast", 0.001)}
    told: list[dict[str, Any]] = []
    found = race(engines, processes=2, seconds=1.0, wait=0.0, on_progress=told.append)
    assert found.runners["slow"].latency().median == 0.004
    assert found.ratio("slow", "fast").point == pytest.approx(4.0)
    assert found.ratio("fast", "slow").excludes_one
    # half a second a process; a slow round is 3 calls and one that is not timed: 16 ms; a fast one 11 ms
    assert found.runners["slow"].samples.shape == (2, 31, 3)
    assert found.runners["fast"].samples.shape == (2, 31, 10)
    assert all(w.steady and w.median == 0.004 for w in found.runners["slow"].warm_up)
    assert [len(r.cold_start) for r in found.runners.values()] == [1, 1]
    cold = found.runners["fast"].cold_start[0]
    assert cold.seconds == 0.001
    assert cold.peak >= cold.base > 1_000_000
    assert max(t["done"] / t["total"] for t in told if "total" in t) == 1.0
    assert len(found.busy) == len(found.others) == len(found.cores) == 2
    assert all(Counter(names) == {"slow": 1, "fast": 1} for rounds in found.order for names in rounds)
    assert len({tuple(names) for rounds in found.order for names in rounds}) == 2, "interleaved in a changing order"
    kept = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert Race.from_json(kept).to_json() == found.to_json()
    with pytest.raises(UserError, match="format 7"):
        Race.from_json({**kept, "format": 7})


def test_the_same_seed_gives_the_same_race(tmp_path: Path) -> None:
    engines = {"a": simulated(tmp_path, "a", 0.002, NOISE), "b": simulated(tmp_path, "b", 0.003, NOISE)}
    asked: dict[str, Any] = {"processes": 2, "seconds": 0.4, "wait": 0.0, "cold_starts": 0}
    one, two, other = (race(engines, seed=seed, **asked) for seed in (5, 5, 6))
    assert one.order == two.order != other.order
    for name in engines:
        np.testing.assert_array_equal(one.runners[name].samples, two.runners[name].samples)
    assert not np.array_equal(one.runners["a"].samples[0], one.runners["a"].samples[1])
    assert one.ratio("a", "b") == two.ratio("a", "b")


def in_process(engines: dict[str, Path], seed: int, processes: int = 3) -> dict[str, np.ndarray]:
    """Samples of a race whose processes are played in this one: a simulated device does not care."""
    runs: list[dict[str, Any]] = []
    for process in range(processes):
        request = {
            "engines": [[name, str(path)] for name, path in engines.items()],
            "inputs": None,
            "seed": seed,
            "process": process,
            "seconds": 0.12,
            "block": 0.005,
            "cores": [],
            "plan": runs[0]["plan"] if runs else None,
        }
        runs.append(measure(request, lambda _: None))
    return {name: np.array([run["engines"][name]["samples"] for run in runs]) for name in engines}


def test_a_against_a_raises_few_alarms_and_a_against_b_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 A/A races of a noisy device, with a 5% slower B beside it: alarms in at most 3, B's slowdown seen in at least 22.

    Were 5% of A/A intervals wrong, more than 3 alarms in 24 would have a probability of 3%; the seeds are fixed.
    """
    monkeypatch.setattr(gc, "collect", lambda: 0)  # cheap in a fresh process, not in one full of tests
    path = simulated(tmp_path, "a", 0.001, {**NOISE, "process": 0.002})
    engines = {"a": path, "again": path, "b": simulated(tmp_path, "b", 0.00105, {**NOISE, "process": 0.002})}
    alarms = seen = 0
    ratios = []
    for seed in range(24):
        samples = in_process(engines, seed, processes=5)
        alarms += statistics.ratio(samples["again"], samples["a"], seed, 500).excludes_one
        slower = statistics.ratio(samples["b"], samples["a"], seed, 500)
        seen += slower.low > 1
        ratios.append(slower.point)
    assert alarms <= 3
    assert seen >= 22
    assert np.mean(ratios) == pytest.approx(1.05, abs=0.003)


def test_cold_calls_are_warmed_away(tmp_path: Path) -> None:
    path = simulated(tmp_path, "a", 0.001, {"cold_calls": 10, "cold_factor": 8.0})
    assert in_process({"a": path}, 0)["a"].max() == 0.001


def test_the_engine_opened_first_tells_its_cold_start(tmp_path: Path) -> None:
    engines = [[name, str(simulated(tmp_path, name, 0.002, {"cold_calls": 5}))] for name in ("a", "b")]
    request = {"engines": engines, "inputs": None, "seed": 0, "process": 0, "seconds": 0.1, "block": 0.01}
    told: list[dict[str, Any]] = []
    found = measure({**request, "cores": [], "plan": None, "first": "b"}, told.append)
    assert [t["doing"] for t in told[:2]] == ["opening b", "opening a"]
    assert found["cold_start"]["seconds"] == 0.006  # the first call, three times as long
    assert found["cold_start"]["peak"] >= found["cold_start"]["base"] > 1_000_000
    orders = set()
    for process in range(8):
        told.clear()
        again = measure({**request, "cores": [], "plan": found["plan"], "process": process}, told.append)
        assert again["cold_start"] is None
        orders.add(told[0]["doing"])
    assert orders == {"opening a", "opening b"}


def test_plans_by_hand() -> None:
    fast = make_plan({"a": 1e-6}, {"a": 10}, seconds=1.0, block=0.01)
    assert (fast["rounds"], fast["calls"]) == (60, {"a": 1000})
    slow = make_plan({"a": 2.0, "b": 0.001}, {"a": 1, "b": 1}, seconds=0.5, block=0.01)
    assert (slow["rounds"], slow["calls"]) == (3, {"a": 1, "b": 10})


def test_real_engines_race(tmp_path: Path) -> None:
    """Shape and bookkeeping only: what real engines take on a machine that runs tests says nothing."""
    backend, engines = open_backend("onnxruntime"), {}
    for name, model, precision in (("float", None, "float32"), ("int8", int8_model(), "int8")):
        engines[name] = tmp_path / name
        engines[name].mkdir()
        backend.compile(write_program(tmp_path / f"p-{name}", model, precision), engines[name], {}, 1)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32))
    found = race(engines, inputs=[tmp_path / "x.npy"], processes=2, seconds=0.3, wait=0.0)
    for runner in found.runners.values():
        assert runner.samples.shape[:2] == found.runners["float"].samples.shape[:2]
        assert (runner.samples > 0).all()
        assert runner.samples.dtype == np.float64
        assert runner.cold_start[0].peak > runner.cold_start[0].base
        assert runner.cold_start[0].seconds > runner.latency().median
    assert found.runners["int8"].facts["precision"] == "int8"
    ratio = found.ratio("int8", "float")
    assert 0 < ratio.low <= ratio.point <= ratio.high
    assert all(0 <= share <= 1 for share in (*found.busy, *found.others))
    assert all(len(cores) == 1 for cores in found.cores)


def test_bad_races_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one engine"):
        race({})
    path = simulated(tmp_path, "a", 0.001)
    for wrong in ({"processes": 0}, {"seconds": 0.0}, {"seconds": float("nan")}, {"block": -1.0}, {"threads": 0}):
        with pytest.raises(UserError, match="needs at least"):
            race({"a": path}, **wrong)
    with pytest.raises(UserError, match="does not exist"):
        race({"a": tmp_path / "nowhere"})
    np.save(tmp_path / "x.npy", np.zeros((0, 1, 8, 8), np.float32))
    with pytest.raises(UserError, match='gives no batch of 1 for input "x"'):
        race({"a": path}, inputs=[tmp_path / "x.npy"], wait=0.0)
    with pytest.raises(UserError, match="2 input"):
        race({"a": path}, inputs=[tmp_path / "x.npy"] * 2, wait=0.0)


def test_a_worker_that_takes_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="timeout: no result after 0.01 s"):
        race({"a": simulated(tmp_path, "a", 0.001)}, wait=0.0, timeout=0.01)


def test_an_engine_without_latency_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="took no time"):
        race({"a": simulated(tmp_path, "a", 0.0)}, wait=0.0)
