"""Students of the recipe's factory with other arguments, compiled and raced on the target: what a search is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest
from edgekd.errors import EdgekdError, UserError
from edgekd.latency.table import Kind, Measured, engine_name
from edgekd.pipeline import tables
from edgekd.search.space import Arguments, Variants

if TYPE_CHECKING:
    from torch import nn

    from edgekd.latency.race import Race
    from edgekd.pipeline.bench import Bench
    from edgekd.pipeline.plan import Plan

CODE = tuple(Path(__file__).with_name(name) for name in ("variants.py", "bench.py"))


def digest_of(plan: Plan) -> str:
    """What the latencies of a search depend on: machine, backends, and how long they are measured."""
    fields = tables.fields_of(plan, tables.target_of(plan))
    return digest.of_json([fields, [digest.of_source(path) for path in CODE]])


def variants(plan: Plan, before: str, stage: str, work: Path) -> Variants:
    """Variants of the recipe's student, the result of the step `before`, for the step `stage`; engines are kept in `work` until it is
    finished. Where the plan has a Ray cluster, its machines score and race them.
    """
    from edgekd.pipeline.bench import Bench, write_timed
    from edgekd.training.train import derive

    target, student = tables.target_of(plan), plan.student(before)
    given, seed = student.origin["arguments"], plan.values.seed
    everything = plan.roots.own_arguments()
    kinds = tables.kinds_of(plan, target)
    counting = tuple(kind for kind in kinds if kind.precision == kinds[-1].precision)

    def make(arguments: Arguments, draw: int = 0) -> nn.Module:
        return plan.roots.student_with({**given, **arguments}, derive(seed, "draw", draw) if draw else seed)

    def program(arguments: dict[str, Any], precision: str, out: Path) -> None:
        write_timed(make(arguments).eval(), student, precision, plan.grids[0], out)

    bench = Bench(
        program=program,
        target=target.model_dump(mode="json"),
        threads=plan.values.targets.threads,
        measure=plan.values.measure,
        work=work,
        progress=plan.progress,
        timeout=plan.compile_timeout,
    )
    here = partial(raced, bench, counting)
    if not plan.ray:
        return Variants(everything, counting, make, here)
    from edgekd.pipeline.again import request_of
    from edgekd.pipeline.spread import Spread

    scoring, racing = request_of(plan, before), request_of(plan, before, stage)
    spread = Spread(plan.ray, scoring, racing, before, stage, target.name, here, plan.progress)
    return Variants(everything, counting, make, spread.race, spread.score)


def raced(
    bench: Bench, kinds: Sequence[Kind], plans: Sequence[Arguments], label: str
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
    race = _race(bench, engines, failed, label)
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


def _race(bench: Bench, engines: dict[str, Path], failed: dict[int, str], label: str) -> Race:
    """The race of all engines that can be opened and warmed up; one that cannot is left out, unless it is of the first plan."""
    while True:
        try:
            return bench.measured(engines, label)
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
    if not index:
        return Measured(seconds, 1.0, 1.0, 1.0)
    ratio = race.ratio(engine_name(index, kind), whole)
    return Measured(seconds * ratio.point, ratio.point, ratio.low, ratio.high)
