"""Which layers stay in float under a latency: timed by real exports on the simulated device, planned, raced, and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd import api
from edgekd.errors import UserError
from edgekd.latency.layer_times import FILE, Times, tabled
from edgekd.latency.table import Kind, Measured
from edgekd.pipeline import layer_times, tables
from edgekd.pipeline.plan import Plan

CODE = """
import torch
from torch import nn
import edgekd

def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 16))

def data():
    draw = torch.Generator().manual_seed(0)
    def split(count):
        return torch.randn(count, 1, 8, 8, generator=draw), torch.arange(count) % 4
    return edgekd.Dataset(split(64), split(32), split(32))
"""
RECIPE = """
[student]
factory = "timed_layers:student"
[data]
factory = "timed_layers:data"
[[stage]]
use = "quantize"
calibration = "train-128"
bits = { budget = { latency = "0.9x" } }
[targets]
placement = false
names = ["host"]
backends = ["null"]
[measure]
processes = 1
seconds = 0.05
wait = 0
"""
STEP = "layer times for quantize"


def planned(recipe: Path, latency: str) -> Plan:
    overrides = [f'quantize.bits={{ budget = {{ latency = "{latency}" }} }}']
    plan = api.prepare(recipe, overrides=overrides, store=recipe.parent / "store", quiet=True)
    for name in ("student", "calibration for quantize", STEP):
        step = plan.steps[name]
        plan.entries[name] = plan.store.get(step.key) or plan.store.make(step.key, step.label, step.make)
    return plan


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timed")
    (folder / "timed_layers.py").write_text(CODE)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def times(recipe: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((planned(recipe, "0.9x").entry(STEP).path / FILE).read_text())
    return found


def test_the_wide_layer_costs_most_in_float_and_the_times_are_made_once(recipe: Path, times: dict[str, Any]) -> None:
    assert times["backend"] == "null"
    assert times["layers"]["1"]["float"] > 2 * times["layers"]["3"]["float"] > 0
    assert times["quantized"] < times["whole"] == times["fastest"]
    plan = planned(recipe, "0.5x")
    names = list(plan.steps)
    assert names.index(STEP) < names.index("quantize")
    assert STEP in plan.steps["quantize"].reads
    assert json.loads((plan.entry(STEP).path / FILE).read_text()) == times


def test_the_plan_keeps_the_latency_and_is_what_is_quantized(recipe: Path, times: dict[str, Any]) -> None:
    """Time for the narrow layer in float, not for the wide one."""
    allowed = times["quantized"] + 1.5 * times["layers"]["3"]["float"]
    plan = planned(recipe, f"{1e6 * allowed} us")
    step = plan.steps["quantize"]
    plan.entries["quantize"] = plan.store.make(step.key, step.label, step.make)
    told = plan.entry("quantize").facts["bits"]
    assert {row["layer"]: row["bits"] for row in told["layers"]} == {"1": 8, "3": 32}
    assert told["latency"]["measured"] <= told["latency"]["allowed"] == pytest.approx(allowed)
    assert told["latency"]["predicted"] == pytest.approx(times["quantized"] + times["layers"]["3"]["float"])
    assert told["budget"] is None
    quantized = plan.student("quantize").quantized
    assert quantized is not None and quantized["precision"]["layers"] == {"1": 8, "3": 32}


def test_a_latency_that_cannot_be_kept_or_asks_for_nothing(recipe: Path, times: dict[str, Any]) -> None:
    for latency, message in (
        (f"{0.5e6 * times['quantized']} us", "cannot be kept: the least"),
        (f"{2e6 * times['whole']} us", "asks for nothing"),
    ):
        plan = planned(recipe, latency)
        step = plan.steps["quantize"]
        with pytest.raises(UserError, match=message):
            plan.store.make(step.key, step.label, step.make)


def test_times_of_another_machine_are_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(recipe, "0.9x")
    there = {**tables.machine_of(plan, plan.targets[0]), "cores": 96}
    monkeypatch.setattr(tables, "machine_of", lambda plan, target: there)
    with pytest.raises(UserError, match="another machine"):
        layer_times.times(plan, "quantize", "student", plan.grids[0], recipe.parent)


def test_the_fastest_quantized_engine_is_planned_by_and_the_fastest_float_one_is_the_measure(tmp_path: Path) -> None:
    def rows(*seconds: float) -> list[Measured]:
        return [Measured(s, s / seconds[0], 0.9, 1.1) for s in seconds]

    both = {Kind("a", "int8"): rows(2.0, 1.5, 1.6, 1.4), Kind("b", "int8"): rows(3.0, 1.2, 1.3, 1.9)}
    alone = [("x", "float"), ("y", "int4")]
    (tmp_path / FILE).write_text(json.dumps(tabled(both, alone, {"chip": "here"})))
    asked = []

    def measure(backend: str, whole: float, ways: object) -> float:
        asked.append((backend, whole, ways))
        return 1.0

    found = Times.read(tmp_path / FILE, {"chip": "here"}, measure)
    assert (found.backend, found.fastest, found.whole, found.quantized) == ("b", 2.0, 3.0, 1.2)
    assert found.layers["x"]["float"] == pytest.approx(0.1)
    assert found.layers["y"]["int4"] == pytest.approx(0.7)
    assert found.measure({"int4": ["y"]}) == 1.0
    assert asked == [("b", 3.0, {"int4": ["y"]})]
    assert tabled({Kind("a", "int8"): rows(2.0, 1.5, 1.6, 1.4)}, alone, {})["layers"]["y"] == {"int4": 0.0}
