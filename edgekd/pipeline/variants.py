"""Students of the recipe's factory with other arguments, or with further edits, compiled and raced on the target.

A search is measured with the former, alternatives to blocks with the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest
from edgekd.backend import read_json
from edgekd.blocks.budget import Timed
from edgekd.errors import EdgekdError, UserError
from edgekd.latency.table import Kind, Measured, bytes_of, engine_name
from edgekd.pipeline import tables
from edgekd.search.space import Arguments, Variants

if TYPE_CHECKING:
    from torch import nn

    from edgekd.latency.race import Race
    from edgekd.pipeline.bench import Bench
    from edgekd.pipeline.plan import Plan
    from edgekd.student import Edit, Student
    from edgekd.target import Target

CODE = tuple(Path(__file__).with_name(name) for name in ("variants.py", "bench.py"))


def digest_of(plan: Plan) -> str:
    """What the latencies of a search depend on: machine, backends, and how long they are measured."""
    fields = tables.fields_of(plan, tables.target_of(plan))
    return digest.of_json([fields, [digest.of_source(path) for path in CODE]])


def variants(plan: Plan, before: str, stage: str, work: Path) -> Variants:
    """Variants of the recipe's student, the result of the step `before`, for the step `stage`; engines are kept in `work` until it is
    finished. Where the plan has a Ray cluster, its machines score and race them.
    """
    from edgekd.training.train import derive

    target, student = tables.target_of(plan), plan.student(before)
    given, seed = student.origin["arguments"], plan.values.seed
    everything = plan.roots.own_arguments()
    counting = _counting(plan, target)

    def make(arguments: Arguments, draw: int = 0) -> nn.Module:
        return plan.roots.student_with({**given, **arguments}, derive(seed, "draw", draw) if draw else seed)

    here = partial(raced, _bench(plan, target, student, make, work), counting)
    if not plan.ray:
        return Variants(everything, counting, make, here)
    from edgekd.pipeline.again import request_of
    from edgekd.pipeline.spread import Spread

    scoring, racing = request_of(plan, before), request_of(plan, before, stage)
    spread = Spread(plan.ray, scoring, racing, before, stage, target.name, here, plan.progress)
    return Variants(everything, counting, make, spread.race, spread.score)


def race_edited(
    plan: Plan, before: str, edits: Sequence[Sequence[Edit]], label: str, weighed: bool = False
) -> tuple[list[dict[Kind, Timed]], dict[int, str]]:
    """What the engines of the student of the step `before` take with these edits each, and why some have none, as `raced` says.

    Measured once for the student's structure, the edits and this machine; engines are kept until all are measured. `weighed`: with what
    a new process of each holds.
    """
    from edgekd.student import replay

    target, student = tables.target_of(plan), plan.student(before)
    kinds = _counting(plan, target)
    cold_starts = tables.COLD_STARTS if weighed else 0
    of = [tables.structure(plan, before), [list(one) for one in edits], digest_of(plan)]
    key = digest.of_json(["edited", *of, *([cold_starts] if weighed else [])])

    def make(plain: Arguments) -> nn.Module:
        network = student.unloaded()
        replay(network, plain["edits"])
        return network

    def measured(_: Path) -> dict[str, Any]:
        bench = _bench(plan, target, student, make, plan.store.work(key))
        plans = [{"edits": list(one)} for one in edits]
        found, failed = raced(bench, kinds, plans, label, cold_starts)
        rows = []
        for one, row in zip(plans, found, strict=True):
            sizes = {kind: read_json(bench.engine(one, kind) / "engine.json")["bytes"] for kind in row}
            rows.append({kind.name: [vars(latency), sizes[kind]] for kind, latency in row.items()})
        return {"rows": rows, "failed": [[index, why] for index, why in failed.items()]}

    facts = plan.store.make(key, f"latency of {label}", measured).facts
    named = {kind.name: kind for kind in kinds}
    rows = [
        {named[name]: Timed(Measured(**latency), size) for name, (latency, size) in row.items()}
        for row in facts["rows"]
    ]
    return rows, {int(index): str(why) for index, why in facts["failed"]}


def _counting(plan: Plan, target: Target) -> tuple[Kind, ...]:
    """The kinds of engines that count: those of the precision that the recipe ends in."""
    kinds = tables.kinds_of(plan, target)
    return tuple(kind for kind in kinds if kind.precision == kinds[-1].precision)


def _bench(plan: Plan, target: Target, student: Student, make: Callable[[Arguments], nn.Module], work: Path) -> Bench:
    """Compiles and races what `make` gives, with the ports of `student`."""
    from edgekd.pipeline.bench import Bench, write_timed

    def program(arguments: dict[str, Any], precision: str, out: Path) -> None:
        write_timed(make(arguments).eval(), student, precision, plan.grids[0], out)

    return Bench.of(plan, target, work, program)


def raced(
    bench: Bench, kinds: Sequence[Kind], plans: Sequence[Arguments], label: str, cold_starts: int = 0
) -> tuple[list[dict[Kind, Measured]], dict[int, str]]:
    """What the engines of each plan take, in one race, and why some plans have none. The first is what the others are shares of.

    A kind of engine that the first cannot be compiled as is left out. Raises UserError where it can be compiled as none.
    """
    engines, failed = _compiled(bench, kinds, plans, label)
    left = [kind for kind in kinds if engine_name(0, kind) in engines]
    if not left:
        raise UserError(
            f"the student's latency cannot be measured: {failed[0]}", hint="name a backend that can compile it"
        )
    engines = {name: path for name, path in engines.items() if any(name.endswith(f" {kind.name}") for kind in left)}
    race = _race(bench, engines, failed, label, cold_starts)
    found: list[dict[Kind, Measured]] = []
    for index in range(len(plans)):
        rows = {kind: _measured(race, index, kind) for kind in left if engine_name(index, kind) in race.runners}
        found.append(rows)
        if rows:
            failed.pop(index, None)
    return found, failed


def _compiled(
    bench: Bench, kinds: Sequence[Kind], plans: Sequence[Arguments], label: str
) -> tuple[dict[str, Path], dict[int, str]]:
    engines: dict[str, Path] = {}
    failed: dict[int, str] = {}
    with bench.progress.task(f"compile {label}", total=len(plans) * len(kinds)) as task:
        for index, plan in enumerate(plans):
            for kind in kinds:
                try:
                    engines[engine_name(index, kind)] = bench.engine(dict(plan), kind)
                except OSError:
                    raise
                except (
                    Exception
                ) as error:  # torch.export, the exporter or a backend, of a network that nobody has seen before
                    message = error.message if isinstance(error, EdgekdError) else f"{type(error).__name__}: {error}"
                    failed[index] = f"{kind.name}: {message.strip().splitlines()[0]}"
                task.advance(1, kind.name)
    return engines, failed


def _race(bench: Bench, engines: dict[str, Path], failed: dict[int, str], label: str, cold_starts: int) -> Race:
    """The race of all engines that can be opened and warmed up; one that cannot is left out, unless it is of the first plan."""
    while True:
        try:
            return bench.measured(engines, label, cold_starts)
        except EdgekdError as error:
            first = error.message.partition("\n")[0]
            guilty = next((n for n in engines if first.endswith((f"opening {n}", f"warming up {n}"))), None)
            if guilty is None or guilty.startswith("0 "):
                raise
            del engines[guilty]
            failed[int(guilty.partition(" ")[0])] = first


def _measured(race: Race, index: int, kind: Kind) -> Measured:
    whole = engine_name(0, kind)
    seconds = race.runners[whole].latency(race.seed).median
    held = bytes_of(race.runners[engine_name(index, kind)])
    if not index:
        return Measured(seconds, 1.0, 1.0, 1.0, *held)
    ratio = race.ratio(engine_name(index, kind), whole)
    return Measured(seconds * ratio.point, ratio.point, ratio.low, ratio.high, *held)
