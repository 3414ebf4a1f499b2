"""What the command does with bundles: `edgekd measure`, `verify`, `keygen` and `sign`; and `edgekd --cmake-dir` for those who link one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgekd.commands.store import Json, Quiet, console, show
from edgekd.errors import UserError

MEASURE_EPILOG = """\b
Examples:
  edgekd measure out/bundles/host                     its latency, here and now
  edgekd measure out/bundles/host other/bundles/host  two of the same task, as a ratio
  edgekd measure out/bundles/host --streams 2         samples a second
  edgekd measure out/bundles/host --sustained "5 min" --svg warm.svg
  edgekd measure out/bundles/host --device pi.toml    on a device
"""
PublicKey = Annotated[Path | None, typer.Option(help="the key that must have signed it: KEY.pub", metavar="FILE")]


def cmake_dir(asked: bool) -> None:
    """Print where CMake's find_package(edgekd) looks: `cmake -Dedgekd_DIR=$(python -m edgekd --cmake-dir)`."""
    if asked:
        from edgekd.target import data_dir

        print(data_dir("cmake"))
        raise typer.Exit


def measure(
    bundles: Annotated[list[Path], typer.Argument(help="bundles to race, interleaved", metavar="BUNDLE")],
    seconds: Annotated[float, typer.Option(help="an engine, in all processes together", min=0.01)] = 2.0,
    processes: Annotated[int, typer.Option(help="fresh processes", min=1)] = 3,
    threads: Annotated[
        int | None, typer.Option(help="cores to pin to; default: what they were compiled for", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="of the order of the rounds")] = 0,
    streams: Annotated[int, typer.Option(help="throughput: so many calls at once, in samples a second", min=0)] = 0,
    batch: Annotated[
        int, typer.Option(help="throughput: samples a call, of an engine whose batch is dynamic", min=1)
    ] = 1,
    sustained: Annotated[
        str, typer.Option(help='one bundle without a pause for so long: "5 min", "2 h"', metavar="TIME")
    ] = "",
    svg: Annotated[Path | None, typer.Option(help="sustained: draw it into this file", metavar="FILE")] = None,
    device: Annotated[
        str | None, typer.Option(help="measure there: a target, or the path of its TOML file", metavar="TARGET")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Race bundles on this machine or on a device, interleaved.

    In fresh processes, round by round in random order: medians with intervals, and ratios to the first bundle. With
    --streams their throughput; with --sustained one engine's latency as the device gets warm.
    """
    if device and (sustained or streams):
        raise UserError(
            "--device races bundles there; --streams and --sustained measure on this machine", hint="one of them"
        )
    if threads and not device and threads > (cores := os.cpu_count() or 1):
        raise UserError(f"--threads {threads}: this machine has {cores} cores", hint="leave it out")
    if sustained:
        _sustained(bundles, sustained, threads, seed, svg, as_json=as_json, quiet=quiet)
        return
    if streams:
        options = {"streams": streams, "batch": batch, "seconds": seconds, "processes": processes, "threads": threads}
        _throughput(bundles, {**options, "seed": seed}, as_json=as_json, quiet=quiet)
        return
    from edgekd.latency.energy import said
    from edgekd.measure import race_bundles, rows_of
    from edgekd.target import find_device

    where = find_device(device, Path()) if device else None
    found = race_bundles(
        bundles, seconds=seconds, processes=processes, threads=threads, seed=seed, quiet=quiet, device=where
    )
    if as_json:
        print(json.dumps(found, indent=1))
        return
    show(("bundle", "median", "95% interval", "p90", "p99", "calls", "energy", "ratio to the first"), rows_of(found))
    print(f"energy: {said(found['energy'])}")


def _throughput(bundles: list[Path], options: dict[str, int | float | None], *, as_json: bool, quiet: bool) -> None:
    from edgekd.measure import throughput_of

    found = throughput_of(bundles, quiet=quiet, **options)  # type: ignore[arg-type]  # seconds is a float, threads may be None, the others are ints
    if as_json:
        print(json.dumps({name: one.to_json() for name, one in found.items()}, indent=1))
        return
    rows = [
        (name, f"{one.mean:,.0f}", f"{one.low:,.0f} to {one.high:,.0f}", f"{one.streams} × {one.batch}")
        for name, one in found.items()
    ]
    show(("bundle", "samples a second", "95% interval", "at once"), rows)


def _sustained(
    bundles: list[Path], time: str, threads: int | None, seed: int, svg: Path | None, *, as_json: bool, quiet: bool
) -> None:
    from edgekd.measure import sustained_of
    from edgekd.units import format_seconds, parse_seconds

    if len(bundles) > 1:
        raise UserError("a sustained run heats the device for whoever comes next", hint="one bundle at a time")
    try:
        seconds = parse_seconds(time)
    except ValueError as error:
        raise UserError(f"--sustained: {error}") from None
    if svg is not None and not os.access(svg.absolute().parent, os.W_OK):
        raise UserError(f"cannot write {svg}", hint="name a file in a folder of yours")
    found = sustained_of(bundles[0], seconds=seconds, threads=threads, seed=seed, quiet=quiet)
    if svg is not None:
        from edgekd.report.sustained import draw
        from edgekd.store import write_whole

        try:
            write_whole(svg, draw(found, str(bundles[0])).encode())
        except OSError as error:
            raise UserError(f"cannot write {svg}: {error.strerror}", hint="name a file in a folder of yours") from None
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    rows = []
    for window in found.windows:
        heat = "" if window.temperature is None else f"{window.temperature:.0f} °C"
        clock = "" if window.frequency is None else f"{window.frequency / 1e9:.2f} GHz"
        rows.append((format_seconds(window.start), format_seconds(window.median), f"{window.calls:,}", heat, clock))
    show(("from", "median", "calls", "chip", "clock"), rows)
    ratio = found.ratio(seed)
    said = f"the last {format_seconds(seconds / len(found.windows))} take {ratio.point:.3f}× the first's median"
    console().print(f"{said} ({ratio.low:.3f} to {ratio.high:.3f})")
    if found.others > 0.2:
        console().print(f"other processes used {found.others:.0%} of the machine meanwhile")


def verify(
    bundle: Annotated[Path, typer.Argument(help="a folder that compile wrote: out/bundles/host", metavar="BUNDLE")],
    slowdown: Annotated[
        float, typer.Option(help="also fail if the median is above so many times the promised one; 0: it is only told")
    ] = 0.0,
    public_key: PublicKey = None,
    as_json: Json = False,
) -> None:
    """Check a bundle: its golden inputs through its engine.

    Exit 0: the outputs are the golden ones within the bundle's tolerance; 1: they are not; 2: the bundle was changed, or is not
    signed by the key that was given.
    """
    from edgekd.units import format_seconds
    from edgekd.verify import verify as verify_bundle

    found = verify_bundle(bundle, slowdown, public_key)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        promised = f" (promised {format_seconds(found.promised)})" if found.promised else ""
        print(f"{'ok' if found.ok else 'no'}  {bundle}: {found.backend} {found.runtime}")
        if found.signed_by:
            print(f"    signed by key {found.signed_by}")
        print(
            f"    {found.samples} golden samples, top-1 agreement {found.top1:.4g}, largest difference {found.difference}"
        )
        print(f"    median {format_seconds(found.median)}{promised}, {found.calls} calls")
        if found.reason:
            print(f"    {found.reason}")
    if not found.ok:
        raise typer.Exit(1)


def keygen(
    key: Annotated[Path, typer.Argument(help="the private key to make; the public one is KEY.pub", metavar="KEY")],
) -> None:
    """Make a pair of Ed25519 keys, to sign bundles with.

    KEY (PEM, mode 600) signs and stays where bundles are made; KEY.pub goes to whoever opens them.
    """
    from edgekd.signing import new_key

    public, key_id = new_key(key)
    print(f"{key}  private: signs bundles; keep it")
    print(f"{public}  public: opens them; key {key_id}")


def sign(
    bundle: Annotated[Path, typer.Argument(help="a folder that compile wrote: out/bundles/host", metavar="BUNDLE")],
    key: Annotated[Path, typer.Option(help="the private key, as `edgekd keygen` makes it", metavar="FILE")],
) -> None:
    """Sign a bundle: who opens it with the public key knows who made it.

    Writes bundle.sig beside bundle.json, which has the digest of every file. Compiling again leaves a bundle unsigned.
    """
    from edgekd.signing import sign as sign_bundle

    print(f"{bundle}: signed by key {sign_bundle(bundle, key)}")
