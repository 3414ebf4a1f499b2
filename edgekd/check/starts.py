"""More cold starts, where those that came with the race look worse and are too few to be sure of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekd import worker
from edgekd.check import gates
from edgekd.check.gates import Gate
from edgekd.check.pair import Side
from edgekd.latency import machine
from edgekd.latency.turn import ColdStart, time_limit
from edgekd.pipeline.engines import plugins

ENOUGH = 10  # of each engine
Starts = Mapping[str, Sequence[ColdStart]]
More = Callable[..., Starts]


def judged(
    known: Starts, allowed: Mapping[str, float], again: More | None, *, seed: int, simulated: bool
) -> list[Gate]:
    """Cold start and memory. Where the race's few starts look worse, `again(known, seed=…)` measures more before that is said."""
    found = gates.started(known["baseline"], known["candidate"], allowed, simulated)
    if again is not None and any(gate.note == gates.FEW for gate in found):
        known = again(known, seed=seed)
        found = gates.started(known["baseline"], known["candidate"], allowed, simulated)
    return found


def more(known: Starts, *, sides: Mapping[str, Side], inputs: Path | None, seed: int) -> Starts:
    """Starts of both engines until there are ten of each, pair by pair, in an order drawn anew for each pair."""
    found = {name: list(known[name]) for name in sides}
    random = np.random.default_rng([seed, ENOUGH])
    while min(map(len, found.values())) < ENOUGH:
        for index in random.permutation(len(sides)):
            name = list(sides)[index]
            side = sides[name]
            request = {
                "engine": str(side.engine),
                "inputs": [str(inputs)] if inputs else None,
                "seed": seed,
                "cores": machine.choose_cores(side.threads, machine.busy(0.05)[1]),
                "plugins": plugins(),
            }
            env = worker.thread_env(side.threads)
            found[name].append(ColdStart(**worker.call("cold_start", request, env=env, timeout=time_limit(1, 1.0))))
    return found
