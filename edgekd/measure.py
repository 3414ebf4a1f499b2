"""`edgekd measure`: bundles raced on this machine or on a device, or one kept busy here, whoever compiled them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgekd import bundle
from edgekd.backend import read_json
from edgekd.errors import UserError
from edgekd.latency.race import race
from edgekd.latency.sustained import Sustained, sustain
from edgekd.latency.throughput import Throughput, throughput
from edgekd.pipeline.measure import advancing, summary
from edgekd.progress import Progress
from edgekd.reach import Remote
from edgekd.report.words import between
from edgekd.target import Target
from edgekd.units import format_joules, format_seconds


def race_bundles(
    bundles: Iterable[Path],
    *,
    seconds: float,
    processes: int,
    threads: int | None,
    seed: int,
    quiet: bool = False,
    device: Target | None = None,
) -> dict[str, Any]:
    """Race the engines of these bundles, here or on the target's device; latencies and ratios by bundle path.

    `threads`: None is as many as they were compiled for. Raises UserError for a bundle that was changed, or two that take
    different inputs.
    """
    engines, progress = _engines(bundles), Progress(quiet=quiet)
    threads = _threads(engines, threads)
    with ExitStack() as stack:
        held = None
        if device is not None and isinstance(device.reach, Remote):
            from edgekd.devices.device import reached

            held = stack.enter_context(reached(device, progress, threads))
        task = stack.enter_context(progress.task("measure", total=1.0))
        found = race(
            engines,
            seconds=seconds,
            processes=processes,
            threads=threads,
            seed=seed,
            on_progress=advancing(task),
            device=held,
        )
    return summary(found)


def throughput_of(
    bundles: Iterable[Path],
    *,
    streams: int,
    batch: int,
    seconds: float,
    processes: int,
    threads: int | None,
    seed: int,
    quiet: bool = False,
) -> dict[str, Throughput]:
    """Samples a second of each bundle's engine, by bundle path. `threads` and errors as of `race_bundles`."""
    engines = _engines(bundles)
    threads = _threads(engines, threads)
    with Progress(quiet=quiet).task("measure the throughput", total=1.0) as task:
        return throughput(
            engines,
            streams=streams,
            batch=batch,
            threads=threads,
            processes=processes,
            seconds=seconds,
            seed=seed,
            on_progress=advancing(task),
        )


def sustained_of(folder: Path, *, seconds: float, threads: int | None, seed: int, quiet: bool = False) -> Sustained:
    """One bundle's engine, run without a pause. Raises UserError for a bundle that was changed, or too short a time."""
    (engine,) = _engines([folder]).values()
    threads = _threads({"": engine}, threads)
    with Progress(quiet=quiet).task(f"run {folder} without a pause", total=1.0) as task:
        return sustain(engine, seconds=seconds, threads=threads, seed=seed, on_progress=advancing(task))


def _engines(bundles: Iterable[Path]) -> dict[str, Path]:
    """The engine of each bundle by its path. Raises UserError for one that was changed, and for two with other inputs."""
    folders = [Path(b) for b in bundles]
    names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise UserError("a bundle is named twice", hint="copy it, to race it against itself")
    signatures = {name: bundle.read(folder)["signature"]["inputs"] for name, folder in zip(names, folders, strict=True)}
    first = next(iter(signatures.values()))
    for name, inputs in signatures.items():
        if [(p["shape"], p["dtype"]) for p in inputs] != [(p["shape"], p["dtype"]) for p in first]:
            raise UserError(f"{name} takes other inputs than {names[0]}", hint="race bundles of the same task")
    return {name: folder / "engine" for name, folder in zip(names, folders, strict=True)}


def _threads(engines: Mapping[str, Path], asked: int | None) -> int:
    """As many as asked for, else as the engines were compiled for."""
    return asked or max(int(read_json(engine / "engine.json").get("threads", 1)) for engine in engines.values())


def rows_of(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A printable row for each bundle, the ratio being to the first one's latency; nothing where something was not measured."""
    rows = []
    names, joules = list(found["latency"]), found["energy"]["joules"]
    for name in names:
        took = found["latency"][name]
        ratio = found["ratio"][name].get(names[0])
        rows.append(
            (
                name,
                format_seconds(took["median"]),
                between(took["low"], took["high"]),
                *(format_seconds(took[key]) if took[key] else "too few" for key in ("p90", "p99")),
                str(took["count"]),
                format_joules(joules[name]) if joules[name] is not None else "",
                f"{ratio['point']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f})" if ratio else "",
            )
        )
    return rows
