"""Sustained latency: what an engine takes in the first minute and in the last, since a device that gets hot slows down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import worker
from edgekd.backend import Signature, load_engine
from edgekd.errors import UserError
from edgekd.latency import machine
from edgekd.latency.clock import VirtualClock, calls_per_sample, no_collection, resolution, time_block
from edgekd.latency.machine import Heat, pinned
from edgekd.latency.rounds import sample_inputs
from edgekd.latency.statistics import CONFIDENCE, RESAMPLES, Ratio
from edgekd.tasks import add_plugins
from edgekd.worker import Progress

BLOCK = 0.01  # a block of calls lasts at least so many seconds; its median is kept
WINDOWS = 10
LEAST_BLOCKS = 5


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of the run that began `start` seconds after the first call: the medians of its blocks, in seconds, its number
    of calls, and the chip's temperature (°C) and clock (Hz) at its end, where the system tells them.
    """

    start: float
    blocks: tuple[float, ...]
    calls: int
    temperature: float | None
    frequency: float | None

    @property
    def median(self) -> float:
        """Of the blocks' medians, seconds."""
        return statistics.median(self.blocks)


@dataclass(frozen=True, eq=False)
class Sustained:
    """An engine run without a pause, in windows of equal length. `others`: the machine's share that other processes used."""

    windows: tuple[Window, ...]
    others: float

    def ratio(self, seed: int = 0) -> Ratio:
        """Latency in the last window over that in the first, with a 95% bootstrap interval over blocks.

        The run is one process on one device: the interval says how sure the difference within this run is.
        """
        first, last = (np.log(np.array(self.windows[i].blocks)) for i in (0, -1))
        random = np.random.default_rng(seed)
        drawn = [np.median(x[random.integers(0, len(x), (RESAMPLES, len(x)))], axis=1) for x in (first, last)]
        low, high = np.exp(np.quantile(drawn[1] - drawn[0], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
        point = float(np.exp(np.median(last) - np.median(first)))
        return Ratio(point, min(float(low), point), max(float(high), point))

    def to_json(self) -> dict[str, Any]:
        found = [{**asdict(window), "median": window.median} for window in self.windows]
        return {"windows": found, "others": self.others, "ratio": asdict(self.ratio())}


def sustain(
    engine: Path,
    *,
    seconds: float,
    windows: int = WINDOWS,
    threads: int = 1,
    seed: int = 0,
    plugins: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> Sustained:
    """Run the engine in one fresh process for `seconds`, without warm-up: its heat is what is measured.

    Raises UserError for a time so short that a window holds fewer than five blocks, WorkerError if the process crashes.
    """
    if not seconds > 0 or windows < 2:
        raise UserError("a sustained run needs more than 0 seconds and at least two windows")
    _, per_cpu = machine.busy()
    request = {
        "engine": str(engine),
        "seed": seed,
        "seconds": seconds,
        "windows": windows,
        "cores": machine.choose_cores(threads, per_cpu),
        "plugins": list(plugins),
    }
    found = worker.call(
        "sustain",
        request,
        env=worker.thread_env(threads),
        timeout=120 + 3 * seconds,
        on_progress=on_progress or (lambda _: None),
    )
    made = tuple(Window(**{**one, "blocks": tuple(one["blocks"])}) for one in found["windows"])
    least = min(len(window.blocks) for window in made)
    if least < LEAST_BLOCKS:
        message = f"a window of {seconds / windows:g} s holds {least} blocks of calls, {LEAST_BLOCKS} are needed"
        raise UserError(message, hint="a longer run")
    return Sustained(made, found["others"])


def run(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """{"engine", "seed", "seconds", "windows", "cores"} to {"windows": [Window as JSON], "others"}: the worker's side."""
    add_plugins(dict(request))
    engine = Path(request["engine"])
    length = request["seconds"] / request["windows"]
    with pinned(request["cores"]), load_engine(engine) as session, no_collection():
        inputs = sample_inputs(Signature.read(engine), None, request["seed"])
        if isinstance(session.clock, VirtualClock):
            session.clock.restart(request["seed"])
        others, heat, now = machine.Others(), Heat(), _elapsed(session.clock)
        block = partial(time_block, session, inputs)
        repeat = calls_per_sample(block, resolution(session.clock))
        guess = block(1, repeat)[0] * repeat
        calls = max(1, int(BLOCK / guess) if guess > 0 else 1)
        made = []
        for index in range(request["windows"]):
            start, blocks, told = now(), [], time.monotonic()
            while now() < (index + 1) * length:
                blocks.append(statistics.median(block(calls, repeat)))
                if time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    progress({"done": min(now(), request["seconds"]), "total": request["seconds"]})
            reading = heat.read()
            made.append({"start": start, "blocks": blocks, "calls": len(blocks) * calls * repeat, **reading})
        progress({"done": request["seconds"], "total": request["seconds"]})
        return {"windows": made, "others": others.share()}


def _elapsed(clock: Callable[[], int]) -> Callable[[], float]:
    """Seconds since now, by that clock."""
    begun = clock()
    return lambda: (clock() - begun) / 1e9
