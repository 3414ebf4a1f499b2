"""What the command does with bundles: `edgekd measure`, `edgekd verify`, and `edgekd --cmake-dir` for those who link one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgekd.store_cli import Json, Quiet, console


def cmake_dir(asked: bool) -> None:
    """Print where CMake's find_package(edgekd) looks: `cmake -Dedgekd_DIR=$(python -m edgekd --cmake-dir)`."""
    if asked:
        from edgekd.target import data_dir

        print(data_dir("cmake"))
        raise typer.Exit


def measure(
    bundles: Annotated[list[Path], typer.Argument(help="bundles to race, interleaved", metavar="BUNDLE")],
    seconds: Annotated[float, typer.Option(help="an engine, in all processes together")] = 2.0,
    processes: Annotated[int, typer.Option(help="fresh processes")] = 3,
    threads: Annotated[int, typer.Option(help="pinned thread count")] = 1,
    seed: Annotated[int, typer.Option(help="of the order of the rounds")] = 0,
    device: Annotated[
        str | None, typer.Option(help="measure there: a target, or the path of its TOML file", metavar="TARGET")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Race bundles on this machine or on a device, interleaved.

    In fresh processes, round by round in random order: medians with intervals, and ratios to the first bundle.
    """
    from edgekd.measure import race_bundles, rows_of
    from edgekd.target import find_device

    where = find_device(device, Path()) if device else None
    found = race_bundles(
        bundles, seconds=seconds, processes=processes, threads=threads, seed=seed, quiet=quiet, device=where
    )
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.table import Table

    table = Table(
        "bundle", "median", "95% interval", "p90", "p99", "calls", "ratio to the first", box=None, pad_edge=False
    )
    for row in rows_of(found):
        table.add_row(*row)
    console().print(table)


def verify(
    bundle: Annotated[Path, typer.Argument(help="a folder that compile wrote: out/bundles/host", metavar="BUNDLE")],
    slowdown: Annotated[
        float, typer.Option(help="also fail if the median is above so many times the promised one; 0: it is only told")
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Check a bundle: its golden inputs through its engine.

    Exit 0: the outputs are the golden ones within the bundle's tolerance; 1: they are not; 2: the bundle was changed.
    """
    from edgekd.units import format_seconds
    from edgekd.verify import verify as verify_bundle

    found = verify_bundle(bundle, slowdown)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        promised = f" (promised {format_seconds(found.promised)})" if found.promised else ""
        print(f"{'ok' if found.ok else 'no'}  {bundle}: {found.backend} {found.runtime}")
        print(
            f"    {found.samples} golden samples, top-1 agreement {found.top1:.4g}, largest difference {found.difference}"
        )
        print(f"    median {format_seconds(found.median)}{promised}, {found.calls} calls")
        if found.reason:
            print(f"    {found.reason}")
    if not found.ok:
        raise typer.Exit(1)
