"""`edgekd store`: what the store holds, and cleaning it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

WIDE = 10_000
StoreHelp = "folder of finished results; default: the user's cache"
StoreOpt = Annotated[Path | None, typer.Option("--store", help=StoreHelp, envvar="EDGEKD_STORE")]
Json = Annotated[bool, typer.Option("--json", help="the result as JSON on stdout")]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress on stderr")]

store_app = typer.Typer(
    help="List or clean the store of finished results.", no_args_is_help=True, rich_markup_mode=None
)


@store_app.command("ls")
def store_ls(store: StoreOpt = None, as_json: Json = False) -> None:
    """List what the store holds, least recently used first."""
    from edgekd.store import Store, default_folder
    from edgekd.units import format_bytes, format_seconds

    found = Store(store or default_folder())
    rows = [(e.key, e.facts["label"], e.seconds, _bytes(e.path)) for e in found.entries()]
    if as_json:
        print(json.dumps([dict(zip(("key", "label", "seconds", "bytes"), row, strict=True)) for row in rows], indent=1))
        return
    for key, label, seconds, size in rows:
        print(f"{key[:12]}  {format_bytes(size):>8}  {format_seconds(seconds):>12}  {label}")
    print(f"{len(rows)} entries, {format_bytes(sum(row[3] for row in rows))} in {found.folder}", file=sys.stderr)


@store_app.command("gc")
def store_gc(
    store: StoreOpt = None,
    days: Annotated[float, typer.Option("--unused-for", help="days since the last use")] = 30.0,
    every: Annotated[bool, typer.Option("--all", help="everything")] = False,
) -> None:
    """Remove what was not used for a while: finished results, and what unfinished stages left (a day old, at least)."""
    import time

    from edgekd.store import DAY, ENTRY, Store, default_folder
    from edgekd.units import format_bytes

    found, freed, count = Store(store or default_folder()), 0, 0
    for entry in list(found.entries()):
        if every or time.time() - (entry.path / ENTRY).stat().st_mtime > days * DAY:
            freed, count = freed + _bytes(entry.path), count + 1
            found.remove(entry.key)
    freed += found.sweep(0.0 if every else days * DAY)
    print(f"removed {count} entries, {format_bytes(freed)}")


def console() -> Any:
    """stdout for a table: folded to the width of a terminal, or to $COLUMNS; whole where it goes elsewhere."""
    from rich.console import Console

    whole = not sys.stdout.isatty()
    return Console(soft_wrap=whole, width=WIDE if whole and "COLUMNS" not in os.environ else None)


def show(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, without the columns in which nothing stands. The first holds names, which fold; the others stay whole."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns = [(head, cells) for head, *cells in zip(heads, *rows, strict=True) if any(cells)]
    for number, (head, _) in enumerate(columns):
        table.add_column(head, justify="right" if number else "left", no_wrap=number > 0, overflow="fold")
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    console().print(table)


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
