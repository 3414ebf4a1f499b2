"""What the report says of each layer of a quantized student, and what the layers in float cost in measured time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import EdgekdError
from edgekd.pipeline import calibration
from edgekd.pipeline.step import Step, Version
from edgekd.quant.precision import FLOAT
from edgekd.reach import Local

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.step import Candidate
    from edgekd.store import Entry

HERE = Path(__file__).parent
AS_IT_IS = "as it is"
SAMPLES = 32
"""Calibration samples that draw the ranges of an engine that is only timed."""


def step_of(version: Version) -> str:
    """The name of the step that times the layers of the version that stay in float; its failure costs nothing else."""
    return f"race layers of {version.name}"


def add_cost(plan: Plan, version: Version, before: str) -> None:
    """Plan what the layers in float cost: on the first backend that races the version, on the first target that is this machine."""
    here = [target for target in plan.targets if isinstance(target.reach, Local)]
    racing = [c for target in here for c in plan.racing(target) if c.version == version]
    if not racing:
        return
    candidate, name = racing[0], step_of(version)
    compiled, set_ = candidate.step("compile"), calibration.step_of(version.name)
    fields = {**plan.values.measure.model_dump(), "threads": plan.values.targets.threads, "seed": plan.values.seed}
    code = [HERE / "layers.py", HERE.parent / "latency" / "race.py"]
    key = plan.key("layers", [before, version.name, set_, compiled], fields, [], code)

    def make(out: Path) -> dict[str, Any]:
        return _measure(plan, version, before, candidate, out)

    plan.add(name, Step(name, key, (compiled, version.name, set_, "target"), make))


def _measure(plan: Plan, version: Version, before: str, candidate: Candidate, out: Path) -> dict[str, Any]:
    """{"backend", "layers": {layer: ratio}, "failed": {layer: why}}: the engine raced against itself with that layer quantized."""
    from edgekd.latency.race import race
    from edgekd.pipeline.engines import compile_engine, plugins
    from edgekd.pipeline.measure import advancing

    reverted = plan.entry(version.name).facts["control"]["reverted"]
    found: dict[str, Any] = {"backend": candidate.backend, "layers": {}, "failed": {}}
    if not reverted:
        return found
    threads, facts = plan.values.targets.threads, candidate.target.model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder:
        engines = {AS_IT_IS: plan.entry(candidate.step("compile")).path}
        with plan.progress.task("compile with a layer more quantized", len(reverted)) as task:
            for index, layer in enumerate(reverted):
                program, engine = (Path(folder) / f"{kind}-{index}" for kind in ("program", "engine"))
                program.mkdir()
                engine.mkdir()
                try:
                    _write(plan, version, before, [one for one in reverted if one != layer], program)
                    compile_engine(program, engine, candidate.backend, facts, threads, plan.compile_timeout)
                    engines[layer] = engine
                except EdgekdError as error:
                    found["failed"][layer] = error.message.splitlines()[0]
                task.advance(1, layer)
        with plan.progress.task("measure layers in float", total=1.0) as task:
            raced = race(
                engines,
                processes=plan.values.measure.processes,
                seconds=plan.values.measure.seconds,
                wait=plan.values.measure.wait,
                cold_starts=0,
                threads=threads,
                seed=plan.values.seed,
                plugins=plugins(),
                on_progress=advancing(task),
            )
    (out / "race.json").write_text(json.dumps(raced.to_json()), "utf-8")
    found["layers"] = {layer: asdict(raced.ratio(AS_IT_IS, layer)) for layer in engines if layer != AS_IT_IS}
    return found


def _write(plan: Plan, version: Version, before: str, floats: list[str], out: Path) -> None:
    """The program of the student before the stage, quantized as the version is, with these layers in float."""
    from dataclasses import replace

    from edgekd.pipeline.engines import write_program
    from edgekd.quant.grid import named
    from edgekd.quant.precision import Precision
    from edgekd.quant.pt2e import calibrate, convert, prepare

    student, edit = plan.student(before), plan.student(version.name).quantized
    assert edit is not None
    precision = replace(Precision.from_json(edit["precision"]), layers=dict.fromkeys(floats, FLOAT))
    example, observer = student.example(2), edit["observer"]
    prepared = prepare(student.network(), example, named(edit["grid"]), observer, qat=False, precision=precision)
    calibrate(prepared, [calibration.read(plan.entry(calibration.step_of(version.name)).path)[:SAMPLES]])
    write_program(convert(prepared), student.example(), student.signature, "int8", edit["grid"], out)


def of_report(plan: Plan, version: Version) -> dict[str, Any] | None:
    """The report's part on the layers of a version; None where none was tried."""
    facts = plan.entries[version.name].facts if version.name in plan.entries else {}
    measured = facts.get("sensitivity")
    if measured is None:
        return None
    control, bits, timed = facts.get("control"), facts.get("bits"), plan.entries.get(step_of(version))
    costs = timed.facts["layers"] if timed else {}
    reverted = control["reverted"] if control else ()
    sizes = {row["layer"]: row["bytes"] for row in bits["layers"]} if bits else {}
    rows = [
        {
            **row,
            "bits": FLOAT if row["layer"] in reverted else row["bits"],
            "bytes": sizes.get(row["layer"]),
            "cost": costs.get(row["layer"]),
        }
        for row in measured["layers"]
    ]
    return {
        "version": version.name,
        "measure": measured["measure"],
        "samples": measured["samples"],
        "layers": rows,
        "control": _control(control, timed) if control else None,
        "plan": {k: bits[k] for k in ("budget", "bytes", "least", "most", "loss", "latency")} if bits else None,
    }


def _control(control: Mapping[str, Any], timed: Entry | None) -> dict[str, Any]:
    failed = timed.facts["failed"] if timed else {}
    note = "; ".join(f"what {layer} in float costs is not known: {why}" for layer, why in failed.items())
    if control["reverted"] and timed is None:
        note = "what the layers in float cost in time was not measured: no engine of this version was, on this machine"
    return {**control, "backend": timed.facts["backend"] if timed else None, "note": note}
