"""The race of a target's engines, kept with its raw samples and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.backend import Signature
from edgekd.latency.energy import mean
from edgekd.latency.race import Race, race
from edgekd.metric import same_class
from edgekd.pipeline.engines import plugins, read_arrays
from edgekd.reach import Remote

if TYPE_CHECKING:
    from edgekd.devices.device import Device
    from edgekd.progress import Progress, Task
    from edgekd.sections import Recipe
    from edgekd.target import Target

SAMPLES = 64


def measure(
    engines: Mapping[str, Path],
    golden: Mapping[str, Path],
    out: Path,
    values: Recipe,
    inputs: Sequence[np.ndarray],
    progress: Progress,
    target: Target,
    work: Path,
    ray: str = "",
) -> dict[str, Any]:
    """Race the engines on real inputs, an array a port; write `race.json`, return latencies and ratios.

    On a device that is reached, finished processes stay in `work` until all are, and each engine's outputs there for its
    `golden` inputs (a golden.npz) are compared with those it gave here. `ray`: the cluster whose machine reaches it.
    """
    if ray and isinstance(target.reach, Remote):
        from edgekd import farm

        cut = [array[:SAMPLES] for array in inputs]
        told, held = farm.raced(ray, target, engines, golden, cut, values, progress)
        (out / "race.json").write_bytes(held)
        return told
    fed = [out / f"inputs-{i}.npy" for i in range(len(inputs))]
    for file, array in zip(fed, inputs, strict=True):
        np.save(file, array[:SAMPLES])
    with ExitStack() as stack:
        device = None
        if isinstance(target.reach, Remote):
            from edgekd.devices.device import reached

            device = stack.enter_context(reached(target, progress, values.targets.threads))
        task = stack.enter_context(progress.task(f"measure on {target.name}", total=1.0))
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
            device=device,
            kept=work if device else None,
        )
        there = {n: compared(device, folder, golden[n]) for n, folder in engines.items()} if device else {}
    for file in fed:
        file.unlink()
    (out / "race.json").write_text(json.dumps(result.to_json()), "utf-8")
    found = summary(result)
    if there:
        found["device"]["outputs"] = there
    return found


def compared(device: Device, engine: Path, golden: Path) -> dict[str, float]:
    """An engine's outputs on the device against those in its golden.npz: top-1 agreement, and the largest difference."""
    signature = Signature.read(engine)
    inputs = read_arrays(golden, "inputs", len(signature.inputs))
    expected = read_arrays(golden, "outputs", len(signature.outputs))
    found = device.outputs(engine, inputs)
    apart = max(float(np.abs(a.astype(np.float64) - b).max(initial=0.0)) for a, b in zip(found, expected, strict=True))
    return {"top1": same_class(found[0], expected[0]), "difference": apart}


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
    """Latency of each engine, and its ratio to each other one (below 1 is faster), as plain values in seconds; joules of a call."""
    names = list(result.runners)
    found = {
        "latency": {name: asdict(runner.latency(result.seed)) for name, runner in result.runners.items()},
        "ratio": {a: {b: asdict(result.ratio(a, b)) for b in names if b != a} for a in names},
        "cold_start": {n: [c.to_json() for c in r.cold_start] for n, r in result.runners.items()},
        "energy": {**result.energy, "joules": {n: mean(r.joules) for n, r in result.runners.items()}},
        "rounds": len(result.order[0]),
        "busy": max((*result.busy, *result.others)),
        "disturbed": result.disturbed,
    }
    if result.device:
        from edgekd.devices.device import told

        found["device"] = told(result.device)
    return found
