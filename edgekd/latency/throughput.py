"""Throughput: samples a second that an engine takes when there is always a next one, in several streams at once."""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import worker
from edgekd.backend import Session, Signature, load_engine
from edgekd.errors import UserError
from edgekd.latency import machine
from edgekd.latency.clock import no_collection, time_block, warm_up
from edgekd.latency.machine import pinned
from edgekd.latency.rounds import sample_inputs
from edgekd.latency.statistics import student_t
from edgekd.tasks import add_plugins
from edgekd.worker import Progress

ROUNDS = 5


@dataclass(frozen=True)
class Throughput:
    """Samples a second of one engine: mean over processes, with its 95% interval; `streams` calls ran at once, of `batch` samples."""

    mean: float
    low: float
    high: float
    streams: int
    batch: int
    processes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def throughput(
    engines: Mapping[str, Path],
    *,
    streams: int,
    batch: int = 1,
    threads: int = 1,
    processes: int = 3,
    seconds: float = 2.0,
    seed: int = 0,
    plugins: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> dict[str, Throughput]:
    """Each engine with `streams` sessions, each in a thread of its own, that are called without a pause.

    `seconds`: an engine, over all fresh `processes`, in rounds that take turns. `batch` counts where the engine's batch
    dimension is dynamic. `streams` × `threads` cores are pinned to. Raises UserError for impossible numbers, a batch that
    an engine does not take, or an engine that cannot be opened.
    """
    if streams < 1 or batch < 1 or threads < 1 or processes < 1 or not seconds > 0:
        raise UserError("throughput needs at least one stream, sample, thread and process, and more than 0 seconds")
    tell = on_progress or (lambda _: None)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for process in range(processes):
        request = {
            "engines": [[name, str(folder)] for name, folder in engines.items()],
            "streams": streams,
            "batch": batch,
            "seconds": seconds / processes,
            "seed": [seed, process],
            "cores": machine.choose_cores(streams * threads, machine.busy()[1]),
            "plugins": list(plugins),
        }
        limit = 120 + 10 * len(engines) * (seconds / processes + 5)
        found = worker.call("throughput", request, env=worker.thread_env(threads), timeout=limit)
        for name, rate in found["rates"].items():
            rates[name].append(rate)
        tell({"done": process + 1, "total": processes})
    return {name: _summary(np.array(values), streams, batch) for name, values in rates.items()}


def _summary(rates: np.ndarray[Any, np.dtype[np.float64]], streams: int, batch: int) -> Throughput:
    """Student's t over the logarithms of the processes' rates; one process says nothing of others."""
    logs, spread = np.log(rates), 0.0
    if len(logs) > 1:
        spread = student_t(len(logs) - 1, 0.975) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    mean = math.exp(float(logs.mean()))
    return Throughput(mean, mean * math.exp(-spread), mean * math.exp(spread), streams, batch, len(rates))


def run(request: Mapping[str, Any], _: Progress) -> dict[str, Any]:
    """{"engines", "streams", "batch", "seconds", "seed", "cores"} to {"rates": {name: samples a second}}: the worker's side."""
    add_plugins(dict(request))
    random = np.random.default_rng(request["seed"])
    folders = {name: Path(folder) for name, folder in request["engines"]}
    rates: dict[str, list[float]] = {name: [] for name in folders}
    with pinned(request["cores"]), ExitStack() as opened, no_collection():
        ready = {}
        for name, folder in folders.items():
            sessions = [opened.enter_context(load_engine(folder)) for _ in range(request["streams"])]
            signature = Signature.read(folder)
            inputs = _batched(
                signature, sample_inputs(signature, None, int(request["seed"][0])), request["batch"], folder
            )
            median = warm_up(partial(time_block, sessions[0], inputs), 0.5).median
            calls = max(1, math.ceil(request["seconds"] / ROUNDS / median)) if median > 0 else 1
            ready[name] = sessions, inputs, calls
        for _round in range(ROUNDS):
            for index in random.permutation(len(folders)):
                name = list(folders)[index]
                sessions, inputs, calls = ready[name]
                rates[name].append(request["batch"] * _rate(sessions, inputs, calls))
    return {"rates": {name: statistics.median(found) for name, found in rates.items()}}


def _batched(signature: Signature, inputs: list[Any], batch: int, folder: Path) -> list[Any]:
    """The inputs repeated to `batch` samples. Raises UserError where the batch dimension is fixed."""
    if batch == 1:
        return inputs
    fixed = [port.name for port in signature.inputs if not port.shape or isinstance(port.shape[0], int)]
    if fixed:
        hint = "more streams instead, or a student whose batch is dynamic"
        raise UserError(
            f'{folder}: input "{fixed[0]}" has a fixed batch, so a batch of {batch} does not fit', hint=hint
        )
    return [np.ascontiguousarray(np.repeat(value[:1], batch, axis=0)) for value in inputs]


def _rate(sessions: Sequence[Session], inputs: list[Any], calls: int) -> float:
    """Calls a second of all streams together: each is called `calls` times in its own thread, begun together.

    Each stream's rate is by its own clock, while the others run; what one does after the last other has ended would be
    faster, so the streams have equally many calls.
    """
    start, took = threading.Barrier(len(sessions)), [0.0] * len(sessions)
    failed: list[Exception] = []

    def stream(index: int) -> None:
        try:
            start.wait()
            took[index] = sum(time_block(sessions[index], inputs, calls))
        except Exception as error:  # told below, by the thread that asked
            failed.append(error)
            start.abort()

    threads = [threading.Thread(target=stream, args=(index,)) for index in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return sum(calls / seconds for seconds in took)
