"""More cold starts, where those that came with the race look worse and are too few to be sure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekd import worker
from edgekd.check.pair import Side
from edgekd.latency import machine
from edgekd.latency.race import ColdStart, time_limit

ENOUGH = 10  # of each engine


def more(
    known: Mapping[str, Sequence[ColdStart]],
    sides: Mapping[str, Side],
    inputs: Path | None,
    seed: int,
    plugins: Sequence[str],
) -> dict[str, list[ColdStart]]:
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
                "plugins": list(plugins),
            }
            env = worker.thread_env(side.threads)
            found[name].append(ColdStart(**worker.call("cold_start", request, env=env, timeout=time_limit(1, 1.0))))
    return found
