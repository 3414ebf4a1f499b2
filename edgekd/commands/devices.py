"""`edgekd devices`: the machines that engines are measured on, what they are, and this one served to others."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.commands.store import Json, Quiet
from edgekd.errors import EdgekdError, UserError

if TYPE_CHECKING:
    from edgekd.devices.link import Link
    from edgekd.target import Target

devices_app = typer.Typer(help="List, probe or serve devices.", rich_markup_mode=None)

EPILOG = """\b
On the board:     edgekd devices serve --port 4141
Here:             ssh -N -L 4141:localhost:4141 board, and the token file copied with scp
In its target:    [reach] kind = "served", port = 4141, token_file = "board.token"
"""


@devices_app.callback(invoke_without_command=True)
def devices(context: typer.Context) -> None:
    """List, probe or serve devices."""
    if context.invoked_subcommand is None:
        devices_list()


@devices_app.command("list")
def devices_list(
    probe: Annotated[bool, typer.Option("--probe", help="ask each whether it can be reached now")] = False,
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="FOLDER", help="of target files of yours, besides edgekd's")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the targets that edgekd has a way to."""
    from edgekd.progress import Progress

    progress = Progress(quiet=quiet)
    rows = [_row(target) for target in _targets(folder)]
    if probe:
        _ask(rows, progress)
    shown = [{key: value for key, value in row.items() if key != "target"} for row in rows]
    if as_json:
        print(json.dumps(shown, indent=1))
        return
    width = max((len(row["name"]) for row in shown), default=0)
    for row in shown:
        state = f"  {row['reached'] or 'reached'}" if probe else f"  {row['lacks']}" if row["lacks"] else ""
        print(f"{row['name']:<{width}}  {row['way']:<28}{state}".rstrip())


@devices_app.command("probe")
def devices_probe(
    name: Annotated[str, typer.Argument(help="a target, or the path of a TOML file", metavar="NAME")],
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="write a target file of it")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask a device what it is, and compare that with its target file.

    Chip, cores, instruction sets, memory, system, governor, frequencies, temperature sensors, and whether a Python with
    edgekd is there. Facts about clocks and heat are as of now.
    """
    import datetime

    from edgekd.devices import probe as probing
    from edgekd.progress import Progress
    from edgekd.target import find_target

    target, progress = find_target(name, Path()), Progress(quiet=quiet)
    if write is not None and write.exists():
        raise UserError(f"{write} exists", hint="remove it first, or write another file and compare the two")
    with _link(target) as link, progress.task(f"ask {target.name}"):
        python = getattr(target.reach, "python", "")
        found = probing.probe(link, lambda other: progress.say(f"  waiting: {other} measures there"), python)
    rows = probing.compared(found, target)
    if write is not None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        probing.write_target(write, probing.target_text(write.stem, found, target.reach, today))
        progress.say(f"wrote {write}")
    if as_json:
        differs = {row.fact: row.remark for row in rows if row.remark}
        print(json.dumps({"target": target.name, "found": found.to_json(), "differs": differs}, indent=1))
        return
    for row in rows:
        print(f"{row.fact:<9} {row.found or 'not told'}")
        if row.given != row.found:
            print(f"{'':<11} the target says {row.given or 'nothing'}{f': {row.remark}' if row.remark else ''}")
    for fact, text in probing.told(found):
        if text:
            print(f"{fact:<9} {text}")
    if any(row.remark for row in rows):
        print(
            f"\nnote: {target.name} is described otherwise: --write FILE writes what the device says", file=sys.stderr
        )


@devices_app.command("serve", epilog=EPILOG)
def devices_serve(
    host: Annotated[
        str, typer.Option(help="address to listen at; others than loopback are open to the network")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free; it is printed")] = 0,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="the secret, made if it is not there; default: in the user's configuration"),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="for what clients send; default: in the user's cache")
    ] = None,
    max_bytes: Annotated[str, typer.Option(metavar="SIZE", help="of the largest file that is taken")] = "2 GB",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make this machine a device: engines are measured on it by whoever has the token.

    Prints what a target file writes to reach it. Ends with Ctrl-C. Whoever has the token can run engines, which may hold
    native code, as this user; nothing is encrypted: keep to loopback and tunnel with ssh, or to a network of your own.
    """
    import os
    import signal
    from dataclasses import replace

    from edgekd.devices import token
    from edgekd.devices.server import LIMITS, Server, loopback, programs
    from edgekd.progress import Progress
    from edgekd.store import default_folder
    from edgekd.units import parse_bytes

    try:
        limits = replace(LIMITS, file=parse_bytes(max_bytes))
    except ValueError as error:
        raise UserError(f"--max-bytes: {error}") from None
    progress, place = Progress(quiet=quiet), (token_file or token.default_file()).absolute()
    secret, made = token.read_or_make(place)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    root = (folder or default_folder() / "device").absolute()
    server = Server(root, secret, programs(), host=host, port=port, limits=limits, say=progress.say)
    signal.signal(signal.SIGTERM, lambda *_: server.close())
    at, number = server.address
    progress.say(f"{'made' if made else 'using'} the token {place}")
    if not loopback(at):
        progress.say("note: this address is open to the network, and nothing is encrypted")
    reach = {"kind": "served", "host": at, "port": number, "token_file": str(place)}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in reach.items()]
    print(json.dumps(reach) if as_json else "\n".join(["[reach]", *lines]), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    progress.say("closed")


def _link(target: Target) -> Link:
    """The way to a target's device, be it this machine."""
    from edgekd.devices.device import connect
    from edgekd.devices.local import LocalLink
    from edgekd.reach import Local

    return LocalLink() if isinstance(target.reach, Local) else connect(target)


def _targets(folder: Path | None) -> list[Target]:
    """edgekd's targets, and those of a folder; such as can be built for only in an app are left out."""
    from edgekd.reach import Unreached
    from edgekd.target import find_target, names

    found = [find_target(name, Path()) for name in names("targets")]
    if folder is not None:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder", hint="name one with target files")
        found += [find_target(path.name, folder) for path in sorted(folder.glob("*.toml"))]
    return [target for target in found if not isinstance(target.reach, Unreached)]


def _row(target: Target) -> dict[str, Any]:
    """{"name", "kind", "way", "lacks", "target"}: `lacks` says why it cannot be measured on as it stands."""
    from edgekd.commands.targets import facts_of

    return {
        "name": target.name, "kind": target.reach.kind, "way": dict(facts_of(target))["reach"],
        "lacks": target.unmeasured, "target": target,
    }  # fmt: skip


def _ask(rows: list[dict[str, Any]], progress: Any) -> None:
    """Add "reached": empty, or why not; all are asked at once."""
    from concurrent.futures import ThreadPoolExecutor

    def reached(row: dict[str, Any]) -> str:
        try:
            with _link(row["target"]) as link:
                link.held(["0" * 64])
        except EdgekdError as error:
            return error.message.partition("\n")[0]
        return ""

    with ThreadPoolExecutor(max_workers=8) as pool, progress.task("ask each"):
        for row, why in zip(rows, pool.map(reached, rows), strict=True):
            row["reached"] = why
