"""`edgekd check`: the gate for continuous integration."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.commands.store import Json
from edgekd.errors import EdgekdError, UserError

if TYPE_CHECKING:
    from edgekd.check.gate import Asked
    from edgekd.check.suite import Each

INCONCLUSIVE = 3
EPILOG = """\b
Examples:
  edgekd check out/bundles/host --baseline main/bundles/host
  edgekd check out --baseline main --target host --tolerance 3% --allow bytes=2%
  edgekd check out --baseline main --junit check.xml --markdown check.md
  edgekd check out --baseline main/report.json       only what does not depend on the day
  edgekd check out --baseline main --device pi.toml   measured on a device
  edgekd check suite.toml                            several models and targets
  edgekd check suite.toml --ray head:6379            their devices side by side, on a cluster

\b
Exit codes:
  0  pass           everything is within what is allowed
  1  regressed      something is not
  2  usage error    what to mend is on stderr
  3  inconclusive   the machine was too noisy, or could not measure; says what to do
"""


def check(
    bundle: Annotated[
        Path, typer.Argument(help="a bundle, the folder of a compile, or a suite.toml", metavar="BUNDLE")
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", "-b", help="an earlier bundle, its folder, or its report.json")
    ] = None,
    target: Annotated[str | None, typer.Option(help="which of several bundles")] = None,
    device: Annotated[
        str | None, typer.Option(help="measure there: a target, or the path of its TOML file", metavar="TARGET")
    ] = None,
    tolerance: Annotated[str, typer.Option(help="slower by so much is allowed")] = "5%",
    floor: Annotated[str, typer.Option(help="slower by less than this never counts")] = "20us",
    allow: Annotated[
        list[str] | None, typer.Option(metavar="SIGNAL=SHARE", help="another signal's tolerance, or off: bytes=2%")
    ] = None,
    max_seconds: Annotated[float, typer.Option(help="of measuring, a check")] = 90.0,
    seed: Annotated[int, typer.Option(help="of the order of the rounds")] = 0,
    as_json: Json = False,
    junit: Annotated[Path | None, typer.Option(help="write JUnit XML here", metavar="FILE")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="write a comment for a pull request here", metavar="FILE")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="check on the machines of this Ray cluster that have the devices"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress on stderr")] = False,
) -> None:
    """Gate a bundle against an earlier one: pass, regressed or inconclusive.

    Both engines are measured now, side by side, in fresh processes, with the baseline against itself as control. Gated
    besides latency: metric, teacher, parity, agreement, bytes, delegated, reformats, instructions, cold_start, peak_memory.
    """
    from edgekd.check import suite, terminal
    from edgekd.check.gate import EXIT, Asked, to_json
    from edgekd.check.gates import read_tolerances
    from edgekd.progress import Progress
    from edgekd.target import find_device

    if bundle.suffix == ".toml":
        asked = _suite(bundle, baseline, device)
    elif baseline is None:
        raise UserError("nothing to compare with", hint="name an earlier bundle: --baseline main/bundles/host")
    else:
        where = find_device(device, Path()) if device else None
        rule, allowed = suite.read_rule(tolerance, floor), read_tolerances(allow or [])
        asked = [Asked(bundle, baseline, "", target, rule, allowed, max_seconds, seed, where)]
    try:
        with redirect_stdout(sys.stderr):
            results, verdict = suite.run(asked, Progress(quiet=quiet), _farm(ray) if ray else None)
    except UserError:
        raise
    except EdgekdError as error:
        print(f"inconclusive: {error.message}\n\nhint: {error.hint or 'check again'}", file=sys.stderr)
        raise typer.Exit(INCONCLUSIVE) from None
    except Exception:
        traceback.print_exc()  # exit code 1 would say that the candidate has regressed
        print("\ninconclusive: this is a fault of edgekd", file=sys.stderr)
        raise typer.Exit(INCONCLUSIVE) from None
    if as_json:
        print(json.dumps(to_json(results, verdict), indent=1))
    else:
        from rich.console import Console

        Console(soft_wrap=not sys.stdout.isatty()).print(terminal.summary(results))
    if junit is not None:
        from edgekd.check.junit import render as as_xml

        _write(junit, as_xml(results))
    if markdown is not None:
        from edgekd.check.markdown import render as as_markdown

        _write(markdown, as_markdown(results))
    raise typer.Exit(EXIT[verdict])


def _farm(address: str) -> Each:
    from functools import partial

    from edgekd import farm

    return partial(farm.checked, address)


def _suite(path: Path, baseline: Path | None, device: str | None) -> list[Asked]:
    from edgekd.check import suite

    if baseline is not None:
        raise UserError("a suite names its own baselines", hint=f"leave --baseline out, or write it into {path}")
    if device is not None:
        raise UserError("a suite names its own devices", hint=f"leave --device out, or write it into {path}")
    return suite.read(path)


def _write(path: Path, text: str) -> None:
    """Raises UserError naming the file if it cannot be written."""
    from edgekd.store import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", hint="free space, or name another file") from error
