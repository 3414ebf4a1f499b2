"""What each layer takes otherwise than quantized, as a step of its own: made once for a student and this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.latency.layer_times import FILE, Times, Ways, tabled
from edgekd.latency.table import Kind, measured_by
from edgekd.pipeline import tables
from edgekd.pipeline.step import Step

if TYPE_CHECKING:
    from edgekd.pipeline.bench import Bench
    from edgekd.pipeline.plan import Plan

HERE = Path(__file__).parent
CODE = [HERE / "layer_times.py", HERE / "bench.py", HERE.parent / "latency" / "layer_times.py"]
RACE = "race.json"


def step_of(stage: str) -> str:
    """The name of the step that measures what the stage of that name plans by."""
    return f"layer times for {stage}"


def step(plan: Plan, stage: str, before: str, grid: str, ways: Sequence[str]) -> Step:
    """The step that measures the student of the step `before`, on the first target that is timed here."""
    target = tables.target_of(plan)
    fields = {**tables.fields_of(plan, target), "grid": grid, "ways": list(ways)}
    key = plan.key("layer times", [before], fields, ["data"], CODE, packages=("torch", "torchao"))

    def make(out: Path) -> dict[str, Any]:
        names, narrow = _layers(plan, before, grid)
        alone = [(name, way) for name in names for way in ways if way == "float" or name in narrow]
        plans: list[dict[str, Any]] = [{"float": names}, {}, *({way: [name]} for name, way in alone)]
        bench = _bench(plan, before, grid, names, plan.store.work(key))
        raced, failed = bench.race(plans, _kinds(plan), f"{len(alone)} engines with one layer other than quantized")
        for name, reason in failed.items():
            plan.progress.say(f"  {name}: not timed: {reason.splitlines()[0]}")
        rows = {kind: measured_by(raced, kind, len(plans)) for kind in _kinds(plan) if kind.name not in failed}
        found = tabled(rows, alone, tables.machine_of(plan, target))
        (out / FILE).write_text(json.dumps(found), "utf-8")
        (out / RACE).write_text(json.dumps(raced.to_json()), "utf-8")
        return {"backend": found["backend"], "layers": len(names)}

    return Step(step_of(stage), key, (before, "target"), make)


def times(plan: Plan, stage: str, before: str, grid: str, work: Path) -> Times:
    """What the stage plans by; engines of the plans that it measures are kept in `work` until it is finished."""

    def measure(backend: str, whole: float, ways: Ways) -> float:
        kind, (names, _) = Kind(backend, "int8"), _layers(plan, before, grid)
        plans: list[dict[str, Any]] = [{"float": names}, {way: list(held) for way, held in ways.items() if held}]
        raced, _ = _bench(plan, before, grid, names, work).race(plans, [kind], "the plan")
        return measured_by(raced, kind, 2)[1].share * whole

    machine = tables.machine_of(plan, tables.target_of(plan))
    return Times.read(plan.entry(step_of(stage)).path / FILE, machine, measure)


def _kinds(plan: Plan) -> list[Kind]:
    return [kind for kind in tables.kinds_of(plan, tables.target_of(plan)) if kind.precision == "int8"]


def _layers(plan: Plan, before: str, grid: str) -> tuple[list[str], set[str]]:
    """The layers whose weights the grid quantizes, in order, and those whose weights alone may be integers."""
    from edgekd.quant.grid import named
    from edgekd.quant.pt2e import prepare
    from edgekd.quant.sensitivity import narrows, units

    student = plan.student(before)
    prepared = prepare(student.network(), student.example(2), named(grid), "minmax", qat=False)
    found = units(prepared)
    return [unit.name for unit in found], {unit.name for unit in found if narrows(prepared, unit)}


def _bench(plan: Plan, before: str, grid: str, names: Sequence[str], work: Path) -> Bench:
    """Its plans are `Ways`; where every layer is in float, the engine is the float student's.

    Embedding tables have int8 rows whatever the stage says: few rows are looked up, which is little beside the layers.
    """
    from edgekd.pipeline.bench import Bench, write_timed
    from edgekd.quant.precision import FLOAT, Precision, bits_alone

    student, target = plan.student(before), tables.target_of(plan)

    def program(ways: dict[str, Any], precision: str, out: Path) -> None:
        floats = ways.get("float", ())
        narrow = {name: bits_alone(way) for way, held in ways.items() if way != "float" for name in held}
        mixed = Precision(layers=dict.fromkeys(floats, FLOAT), grouped=narrow)
        kind = "float32" if len(floats) == len(names) else precision
        write_timed(student.network(), student, kind, grid, out, mixed)

    return Bench.of(plan, target, work, program)
