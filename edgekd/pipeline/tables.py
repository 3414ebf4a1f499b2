"""The latency table of a student as a step of its own: made once for its structure and this machine, kept in the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest, registry
from edgekd.backend import open_backend
from edgekd.errors import EdgekdError, UserError
from edgekd.latency.table import FILE, PICTURE, RACE, Kind, Pricing, Table, measured_by
from edgekd.pipeline.step import Step
from edgekd.quant.precision import computes_in
from edgekd.reach import Local
from edgekd.target import Target, this_machine

if TYPE_CHECKING:
    from edgekd.latency.design import Space, Widths
    from edgekd.latency.table import Measured
    from edgekd.pipeline.bench import Bench
    from edgekd.pipeline.plan import Plan
    from edgekd.pruning.groups import Group
    from edgekd.store import Entry

HERE = Path(__file__).parent
PACKAGE = HERE.parent
CODE = (HERE / "bench.py", PACKAGE / "latency" / "table.py", PACKAGE / "latency" / "design.py")
COLD_STARTS = 1
"""New processes of each engine of a table, where memory is limited: a line through many engines tells more than many of one."""
CHECKED = 3  # of the plan


def step_of(stage: str) -> str:
    """The name of the step that makes the table which the stage of that name prunes by."""
    return f"latency table for {stage}"


def target_of(plan: Plan) -> Target:
    """The target that latency is measured on: the first that can be measured here. Raises UserError if there is none."""
    for target in plan.targets:
        if isinstance(target.reach, Local) and not target.unmeasured:
            return target
    reasons = "; ".join(f"{t.name}: {t.unmeasured or 'a table is measured on this machine only'}" for t in plan.targets)
    hint = "add one that is this machine, as is host; or prune by `ratio`, choose bits by size"
    raise UserError(f"no target's latency can be measured here: {reasons}", hint=hint)


def machine_of(plan: Plan, target: Target) -> dict[str, Any]:
    """What a table's latencies are true of: this machine, threads, and the versions of the backends."""
    versions = {name: open_backend(name).versions() for name in _backends(plan, target)}
    return {**_plain(this_machine()), "threads": plan.values.targets.threads, "versions": versions}


def again(plan: Plan, target: Target) -> str:
    """The command that measures the table anew."""
    return f"edgekd table {plan.recipe.path.name} --target {target.name} --fresh"


def kinds_of(plan: Plan, target: Target) -> list[Kind]:
    """Every backend, in float and, where the recipe quantizes, in int8."""
    integers = any(s.gives == "quantized" and computes_in(s.precision) != "float32" for s in plan.recipe.stages)
    precisions = ["float32", *(["int8"] if integers else [])]
    return [Kind(backend, precision) for backend in _backends(plan, target) for precision in precisions]


def counting(plan: Plan, table: Table, target: Target) -> tuple[Kind, ...]:
    """The kinds that a budget is of: those of the precision that the recipe ends in. Raises UserError if none was compiled."""
    last = kinds_of(plan, target)[-1].precision
    found = tuple(kind for kind in table.rows if kind.precision == last)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in table.failed.items())
        raise UserError(f"no {last} engine of the student could be measured: {reasons}", hint="name another backend")
    return found


def step(plan: Plan, stage: str, before: str, weighed: bool = False) -> Step:
    """The step that measures the student of the step `before`; `weighed`: its memory, too."""
    target, cold = target_of(plan), COLD_STARTS if weighed else 0
    name = step_of(stage)
    key = plan.key(
        "table", [before], _fields(plan, target, cold), ["data"], [HERE / "tables.py", *CODE], packages=("torch",)
    )

    def make(out: Path) -> dict[str, Any]:
        entry = measured(plan, before, target, cold_starts=cold)
        for file in (FILE, RACE, PICTURE):
            shutil.copyfile(entry.path / file, out / file)
        return {k: entry.facts[k] for k in ("kinds", "engines")}

    return Step(name, key, (before, "target"), make)


def measured(plan: Plan, before: str, target: Target, fresh: bool = False, cold_starts: int = 0) -> Entry:
    """The entry of the table, by what it depends on: structure, not weights. Measured unless it is there (or if `fresh`).

    `cold_starts`: new processes of each engine, for its memory; none: the table does not tell it.
    """
    groups, space = _groups(plan, before)
    key = digest.of_json(
        [
            structure(plan, before),
            space.to_json(),
            _fields(plan, target, cold_starts),
            [digest.of_source(p) for p in CODE],
        ]
    )
    if fresh:
        plan.store.remove(key)

    def make(out: Path) -> dict[str, Any]:
        return _measure(plan, before, target, groups, space, plan.store.work(key), out, cold_starts)

    found = plan.store.make(key, f"latency table of {plan.values.student.factory}", make)
    Table.read(found.path / FILE).check(machine_of(plan, target), again(plan, target))
    return found


def pricing(plan: Plan, stage: str, before: str, work: Path, weighed: bool = False) -> Pricing:
    """What the stage prunes by; engines of the plans that it measures are kept in `work` until it is finished."""
    target = target_of(plan)
    table = Table.read(plan.entry(step_of(stage)).path / FILE)
    table.check(machine_of(plan, target), again(plan, target))
    kinds = counting(plan, table, target)
    groups, _ = _groups(plan, before)
    bench = _bench(plan, before, target, groups, work)

    def measure(widths: Widths) -> dict[Kind, Measured]:
        raced, _ = bench.race([table.space.whole, widths], kinds, "the plan", CHECKED if weighed else 0)
        return {kind: measured_by(raced, kind, 2)[1] for kind in kinds}

    return Pricing(table, kinds, measure)


def _measure(
    plan: Plan, before: str, target: Target, groups: list[Group], space: Space, work: Path, out: Path, cold_starts: int
) -> dict[str, Any]:
    from edgekd.latency.design import design
    from edgekd.report.steps import draw

    plans, kinds = design(space), kinds_of(plan, target)
    bench = _bench(plan, before, target, groups, work)
    raced, failed = bench.race(plans, kinds, f"{len(plans)} widths", cold_starts)
    for name, reason in failed.items():
        plan.progress.say(f"  {name}: not in the table: {reason.splitlines()[0]}")
    left = [kind for kind in kinds if kind.name not in failed]
    rows = {kind: tuple(measured_by(raced, kind, len(plans))) for kind in left}
    table = Table(space, machine_of(plan, target), tuple(plans), rows, failed, raced.disturbed)
    (out / FILE).write_text(json.dumps(table.to_json()), "utf-8")
    (out / RACE).write_text(json.dumps(raced.to_json()), "utf-8")
    (out / PICTURE).write_text(draw(table), "utf-8")
    return {"kinds": [kind.name for kind in left], "engines": len(plans) * len(left)}


def _bench(plan: Plan, before: str, target: Target, groups: list[Group], work: Path) -> Bench:
    from edgekd.pipeline.bench import Bench, write_narrowed

    student, grid = plan.student(before), plan.grids[0]

    def program(widths: Widths, precision: str, out: Path) -> None:
        write_narrowed(student, groups, widths, precision, grid, out)

    return Bench.of(plan, target, work, program)


def _groups(plan: Plan, before: str) -> tuple[list[Group], Space]:
    """The student's prunable groups, and the widths that they may have. Raises UserError where there are none."""
    from edgekd.pipeline.bench import space_of
    from edgekd.pruning.edits import closed, replay
    from edgekd.pruning.groups import find, nothing

    network = plan.student(before).network()
    replay(network, {"edit": "prune", "kept": {}, "opened": closed(network)})
    found = find(network, plan.roots.data().train[0][:2])
    if not found.prunable:
        raise nothing(found.whole)
    return list(found.prunable), space_of(found.prunable, plan.channel_multiple)


def _backends(plan: Plan, target: Target) -> list[str]:
    return list(plan.values.targets.backends or target.at_hand)


def fields_of(plan: Plan, target: Target) -> dict[str, Any]:
    """What a table depends on besides the student: machine, backends and how long they are measured."""
    facts = target.model_dump(mode="json", include={"chip", "triple", "isa", "cores", "precisions"})
    files = {name: digest.of_source(registry.file_of("backends", name)) for name in _backends(plan, target)}
    kinds = [kind.name for kind in kinds_of(plan, target)]
    measure = plan.values.measure.model_dump()
    return {"target": facts, "machine": machine_of(plan, target), "kinds": kinds, "files": files, "measure": measure}


def _fields(plan: Plan, target: Target, cold_starts: int) -> dict[str, Any]:
    return {**fields_of(plan, target), **({"cold_starts": cold_starts} if cold_starts else {})}


def structure(plan: Plan, before: str) -> str:
    """Digest of the network without its weights: the factory, its arguments, what earlier stages removed, the input."""
    section, student = plan.values.student, plan.student(before)
    if student.quantized is not None:
        raise EdgekdError("a quantized student cannot be narrowed", hint="prune before quantize")
    cuts = [[edit.get(part) for part in ("kept", "opened", "sizes", "removed", "blocks")] for edit in student.edits]
    source, arguments = plan.recipe.factory(section).digest(), student.arguments
    return digest.of_json([section.factory, source, arguments, cuts, student.signature["inputs"], plan.grids[0]])


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    """As it is read back from JSON."""
    return dict(json.loads(json.dumps(facts)))
