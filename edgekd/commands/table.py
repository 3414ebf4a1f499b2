"""`edgekd table`: what the student's engines take at other widths, on a target, measured once and drawn."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.commands.store import Json, Quiet, StoreOpt, show

if TYPE_CHECKING:
    from edgekd.latency.table import Kind, Table

HEADS = ("group", "channels", "measured", "of the whole", "predicted", "size", "memory", "")
EPILOG = """\b
Examples:
  edgekd table recipe.toml                            of the recipe's first target that is this machine
  edgekd table recipe.toml --backend onnxruntime      one runtime: as many engines fewer
  edgekd table recipe.toml --set measure.seconds=0.5 --out table
"""


def table(
    recipe: Annotated[Path, typer.Argument(help="the recipe, a TOML file", metavar="RECIPE")],
    target: Annotated[str | None, typer.Option("--target", "-t", help="a target; default: the recipe's")] = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", metavar="NAME", help="only this one, or these")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder for table.json, race.json and table.svg")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field: measure.seconds=1")
    ] = None,
    store: StoreOpt = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", metavar="FOLDER=PATH", help="add a file")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="measure again")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the student's engines with each group of channels narrowed.

    At channel multiples of the target, in float, and in int8 where the recipe quantizes: what a prune stage with
    budget = { latency = "0.5x" } plans by. Bytes of the engines, too, and their memory where a budget of the recipe limits it.
    """
    from edgekd import api, registry
    from edgekd.latency.table import FILE, PICTURE, RACE, Table
    from edgekd.pipeline import tables
    from edgekd.pipeline.run import roots

    for spec in plugin or []:
        registry.add_plugin(spec)
    sets = [*(overrides or []), *([f"targets.names={json.dumps([target])}"] if target else [])]
    with redirect_stdout(sys.stderr):
        plan = api.prepare(recipe, overrides=sets, backends=backend or [], store=store, quiet=quiet)
        place = tables.target_of(plan)
        roots(plan)
        weighed = any(stage.weighed for stage in plan.recipe.stages)
        entry = tables.measured(plan, "student", place, fresh, tables.COLD_STARTS if weighed else 0)
    found = Table.read(entry.path / FILE)
    if out is not None:
        _copy(entry.path, out, (FILE, RACE, PICTURE))
    if as_json:
        print(json.dumps(to_json(found), indent=1))
    else:
        _show(found)
    for name, reason in found.failed.items():
        print(f"  {name} is not in the table: {reason.splitlines()[0]}", file=sys.stderr)
    if found.disturbed:
        print("  note: other processes used the machine meanwhile: intervals are wider", file=sys.stderr)


def to_json(table: Table) -> dict[str, Any]:
    """The table, and for each kind how far off its predictions are of plans that they had not seen."""
    fits = {kind.name: table.predictor(kind).said() for kind in table.rows}
    return {**table.to_json(), "predictor": fits}


def _copy(entry: Path, out: Path, files: tuple[str, ...]) -> None:
    from edgekd.errors import UserError
    from edgekd.store import write_whole

    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            write_whole(out / file, (entry / file).read_bytes())
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror}", hint="choose another folder with --out") from None
    print(f"picture  {out / files[-1]}", file=sys.stderr)


def _show(table: Table) -> None:
    from edgekd.units import format_bytes, format_seconds

    for kind in table.rows:
        predictor, idle = table.predictor(kind), table.idle(kind)
        rows: list[tuple[str, ...]] = []
        for group in table.space.narrowable:
            for width, row in table.alone(kind, group)[:-1]:
                predicted = predictor.predicted({**table.space.whole, group: width})
                share = f"{row.share:.3f} ({row.low:.3f}–{row.high:.3f})"
                sizes = (format_bytes(held) if held else "" for held in (row.bytes, row.memory))
                times = (format_seconds(row.seconds), share, format_seconds(predicted))
                rows.append((group, str(width), *times, *sizes, "buys no time" if group in idle else ""))
        print(f"\n{_title(table, kind)}")
        show(HEADS, rows)
        said = f"{predictor.error(0.5):.1%}, 95% of them {predictor.error(0.95):.1%}"
        print(f"{len(table.plans)} plans measured; predicted against measured, left out: median {said}")


def _title(table: Table, kind: Kind) -> str:
    from edgekd.units import format_seconds

    least = table.rows[kind][table.plans.index(table.space.least)].seconds
    return f"{kind.name}: whole {format_seconds(table.whole(kind))}, every group at its least width {format_seconds(least)}"
