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
SIDES = ("baseline", "candidate")
Start = Callable[[str], ColdStart]


def judged(
    known: Mapping[str, Sequence[ColdStart]], allowed: Mapping[str, float], start: Start, *, seed: int, simulated: bool
) -> list[Gate]:
    """Cold start and memory. While the few starts that are known look worse, `start(side)` measures another pair of them.

    An engine passes as soon as its median no longer looks worse; that it regressed is said only of ten starts of each, so
    looking after every pair makes no false alarm more likely. The order within a pair is drawn anew for each.
    """
    starts = {name: list(known[name]) for name in SIDES}
    random = np.random.default_rng([seed, ENOUGH])
    while True:
        found = gates.started(starts["baseline"], starts["candidate"], allowed, simulated)
        worse = any(gate.state == "regressed" or gate.note in gates.NOT_SURE for gate in found)
        if not worse or min(map(len, starts.values())) >= ENOUGH:
            return found
        for index in random.permutation(len(SIDES)):
            starts[SIDES[index]].append(start(SIDES[index]))


def here(side: Side, *, inputs: Path | None, seed: int) -> ColdStart:
    """One cold start of an engine on this machine."""
    request = {
        "engine": str(side.engine),
        "inputs": [str(inputs)] if inputs else None,
        "seed": seed,
        "cores": machine.choose_cores(side.threads, machine.busy(0.05)[1]),
        "plugins": plugins(),
    }
    env = worker.thread_env(side.threads)
    return ColdStart(**worker.call("cold_start", request, env=env, timeout=time_limit(1, 1.0)))
