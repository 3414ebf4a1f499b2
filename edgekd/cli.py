"""The `edgekd` command. Each command imports what it needs when it runs: `--help` and `list` import neither torch nor a runtime."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.commands.bundle import MEASURE_EPILOG, cmake_dir, keygen, measure, sign, verify
from edgekd.commands.check import EPILOG as CHECK_EPILOG
from edgekd.commands.check import check
from edgekd.commands.devices import devices_app
from edgekd.commands.doctor import EPILOG as DOCTOR_EPILOG
from edgekd.commands.doctor import doctor
from edgekd.commands.package import package
from edgekd.commands.store import Json, Quiet, StoreOpt, console, store_app
from edgekd.commands.table import EPILOG as TABLE_EPILOG
from edgekd.commands.table import table
from edgekd.commands.targets import targets_app
from edgekd.errors import EdgekdError, UserError

INTERRUPTED = 130
KINDS = "losses, criteria, observers, sources, teachers, backends, stages, targets or calibration"
EXAMPLES = """\b
Examples:
  edgekd new mynet                          a commented recipe and Python file
  edgekd plan recipe.toml                   what would run, and what is cached
  edgekd compile recipe.toml --out out      teacher + student -> measured bundle
  edgekd compile recipe.toml --set distill.epochs=2 --set seed=1
  edgekd table recipe.toml                  what narrower layers would buy, measured
  edgekd compile model.onnx --calibration inputs.npz
  edgekd measure out/bundles/host other/bundles/host
  edgekd verify out/bundles/host            its golden inputs, here
  edgekd package web out/bundles/host --out page   a page that runs it in a browser
  edgekd check out/bundles/host --baseline main/bundles/host
  edgekd doctor                             what this machine can compile and measure
"""

app = typer.Typer(
    help="Take a teacher and a student to a small, fast, measured engine that an app can link.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(store_app, name="store")
app.add_typer(targets_app, name="targets")
app.add_typer(devices_app, name="devices")

RecipeArg = Annotated[Path, typer.Argument(help="the recipe, a TOML file; or an ONNX file", metavar="RECIPE")]
Out = Annotated[Path, typer.Option("--out", "-o", help="folder for the report and the bundles")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field: distill.epochs=2")
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FOLDER=PATH", help="add a file: losses=./mine.py")
]


Backends = Annotated[list[str] | None, typer.Option("--backend", metavar="NAME", help="only this one, or these")]
Targets = Annotated[list[str] | None, typer.Option("--target", metavar="NAME", help="for this device, or these")]
Calibrate = Annotated[
    str | None, typer.Option(metavar="WHAT", help="of an ONNX file: zero-shot, a folder of images, an .npz file")
]
TeacherOpt = Annotated[Path | None, typer.Option(metavar="FILE", help="of an ONNX file: another, to compare with")]


def _version(asked: bool) -> None:
    if asked:
        from edgekd import __version__

        print(f"edgekd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    cmake: Annotated[
        bool, typer.Option("--cmake-dir", callback=cmake_dir, is_eager=True, help="print the folder for find_package")
    ] = False,
) -> None:
    pass


@app.command()
def compile(
    recipe: RecipeArg,
    out: Out = Path("out"),
    overrides: Sets = None,
    store: StoreOpt = None,
    plugin: Plugins = None,
    backend: Backends = None,
    target: Targets = None,
    calibration: Calibrate = None,
    teacher: TeacherOpt = None,
    compile_timeout: Annotated[float, typer.Option(min=0.1, help="seconds that compiling one engine may take")] = 1800,
    debug: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help='"parity": each engine compared with its program, tensor by tensor'),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="measure and search on the machines of this Ray cluster"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="make every step again")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe, from teacher and student to bundle.

    Distil, prune, quantize, export, compile, measure, choose, bundle; finished steps are taken from the store. An ONNX file is
    quantized, compiled and raced as it comes: without labels, agreement with the float file stands in for a metric.
    """
    from edgekd import api, registry
    from edgekd.pipeline import ranks

    for spec in plugin or []:
        registry.add_plugin(spec)
    with redirect_stdout(sys.stderr):  # stdout is data: what the user's code prints is talk
        if ranks.follows():
            ranks.follow(api.prepare(
                recipe, overrides=overrides or [], backends=backend or [], store=store, quiet=True, targets=target or []
            ))  # fmt: skip
            return
        report = api.compile(
            recipe, out, overrides=overrides or [], backends=backend or [], store=store, quiet=quiet, fresh=fresh,
            compile_timeout=compile_timeout, calibration=calibration, teacher=teacher, targets=target or [], debug=debug, ray=ray,
        )  # fmt: skip
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        _show(report)
        if debug:
            from edgekd.pipeline.parity import lines

            for line in lines(json.loads((out / "parity.json").read_text("utf-8"))):
                print(line)
        print(f"\nreport   {out / 'report.html'}")
        if any(target["chosen"] or target["nearest"] for target in report["targets"]):
            print(f"bundles  {out / 'bundles'}")
    if any(target["chosen"] is None for target in report["targets"]):
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: RecipeArg,
    overrides: Sets = None,
    backend: Backends = None,
    target: Targets = None,
    calibration: Calibrate = None,
    teacher: TeacherOpt = None,
    store: StoreOpt = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Print each step, cached or to do, and what it reads."""
    from edgekd import api, registry
    from edgekd.pipeline.run import cached

    for spec in plugin or []:
        registry.add_plugin(spec)
    with redirect_stdout(sys.stderr):
        planned = api.prepare(
            recipe, overrides=overrides or [], backends=backend or [], store=store, calibration=calibration,
            teacher=teacher, targets=target or [],
        )  # fmt: skip
    hits = cached(planned)
    rows = [
        {"step": name, "cached": hits[name], "reads": list(step.reads), "key": step.key}
        for name, step in planned.steps.items()
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.table import Column, Table

    printed = Table(Column("step", no_wrap=True), Column(no_wrap=True), "reads", box=None, pad_edge=False)
    for name, step in planned.steps.items():
        printed.add_row(name, "cached" if hits[name] else "to do", step.told_reads)
    console().print(printed)


@app.command("list")
def list_(
    what: Annotated[str | None, typer.Argument(metavar="WHAT", help=KINDS)] = None,
    name: Annotated[str | None, typer.Argument(help="one of them: its formula, source and fields")] = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """List losses, criteria, backends, targets and so on: whatever a recipe may name."""
    from edgekd import listing, registry

    for spec in plugin or []:
        registry.add_plugin(spec)
    if what is None:
        raise UserError("say what to list", hint=", ".join((*registry.FOLDERS, *listing.DATA)))
    found = listing.entry(what, name) if name else listing.rows(what)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print(listing.page(found) if isinstance(found, dict) else listing.table(found))


app.command(epilog=DOCTOR_EPILOG)(doctor)
app.command(epilog=MEASURE_EPILOG)(measure)
app.command()(verify)
app.command()(sign)
app.command()(keygen)
app.command()(package)
app.command(epilog=TABLE_EPILOG)(table)
app.command(epilog=CHECK_EPILOG)(check)


@app.command()
def report(
    out: Annotated[Path, typer.Argument(help="the folder that compile wrote", metavar="OUT")], as_json: Json = False
) -> None:
    """Print the report of an earlier compile."""
    from pydantic import ValidationError

    from edgekd.backend import read_json
    from edgekd.report.schema import Report

    path = out if out.suffix == ".json" else out / "report.json"
    if not path.is_file():
        raise UserError(f"{path} does not exist", hint="name a folder that `edgekd compile --out` wrote")
    found = read_json(path)
    try:
        Report.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is not an edgekd report: {where}: {first['msg']}", hint="compile again") from None
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="a folder to make, and the name of its Python module", metavar="NAME")],
) -> None:
    """Write a commented recipe and Python file."""
    from edgekd.scaffold import write_project

    for path in write_project(Path(name)):
        print(path)


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    from edgekd.schema import schema as recipe_schema

    print(json.dumps(recipe_schema(), indent=1))


def _show(found: dict[str, Any]) -> None:
    from edgekd.report.terminal import summary

    console().print(summary(found))


def main() -> None:
    """Entry point: errors become a message with a hint on stderr and an exit code; 2 is the user's mistake."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except EdgekdError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("\ninterrupted: finished stages are kept; the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "exit_code"):
            show = getattr(error, "show", None)
            if show:
                show()
            sys.exit(error.exit_code)
        raise
