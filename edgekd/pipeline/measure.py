"""The race of a target's engines, kept with its raw samples and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.latency.race import Race, race
from edgekd.pipeline.engines import plugins

if TYPE_CHECKING:
    from edgekd.progress import Progress, Task
    from edgekd.sections import Recipe

SAMPLES = 64


def measure(
    engines: Mapping[str, Path],
    out: Path,
    values: Recipe,
    inputs: Sequence[np.ndarray],
    progress: Progress,
    target: str,
) -> dict[str, Any]:
    """Race the engines on real inputs, an array a port; write `race.json`, return latencies and ratios."""
    fed = [out / f"inputs-{i}.npy" for i in range(len(inputs))]
    for file, array in zip(fed, inputs, strict=True):
        np.save(file, array[:SAMPLES])
    with progress.task(f"measure on {target}", total=1.0) as task:
        result = race(
            engines,
            inputs=fed,
            processes=values.measure.processes,
            seconds=values.measure.seconds,
            threads=values.targets.threads,
            seed=values.seed,
            plugins=plugins(),
            wait=values.measure.wait,
            on_progress=advancing(task),
        )
    for file in fed:
        file.unlink()
    (out / "race.json").write_text(json.dumps(result.to_json()), "utf-8")
    return summary(result)


def advancing(task: Task) -> Callable[[dict[str, Any]], None]:
    """A race's progress as the progress of a task whose total is 1."""
    seen = 0.0

    def tell(message: dict[str, Any]) -> None:
        nonlocal seen
        if "busy" in message:
            task.advance(0, f"waiting: other processes use {message['busy']:.0%} of the machine")
        if message.get("total"):
            share = message["done"] / message["total"]
            task.advance(share - seen, "")
            seen = share

    return tell


def summary(result: Race) -> dict[str, Any]:
    """Latency of each engine, and its ratio to each other one (below 1 is faster), as plain values in seconds."""
    names = list(result.runners)
    return {
        "latency": {name: asdict(runner.latency(result.seed)) for name, runner in result.runners.items()},
        "ratio": {a: {b: asdict(result.ratio(a, b)) for b in names if b != a} for a in names},
        "cold_start": {n: [c.to_json() for c in r.cold_start] for n, r in result.runners.items()},
        "rounds": len(result.order[0]),
        "busy": max((*result.busy, *result.others)),
        "disturbed": result.disturbed,
    }
