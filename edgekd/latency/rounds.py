"""What one fresh process of a race does: open every engine, warm each up, then randomised interleaved rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.backend import Array, Session, Signature, load_engine, open_backend, read_json
from edgekd.errors import UserError
from edgekd.latency import energy
from edgekd.latency.clock import (
    WARM_SECONDS,
    VirtualClock,
    WarmUp,
    calls_per_sample,
    no_collection,
    resolution,
    time_block,
    warm_up,
)
from edgekd.latency.machine import Others, peak_memory, pinned
from edgekd.tasks import add_plugins
from edgekd.worker import Progress

LEAST_ROUNDS, MOST_ROUNDS = 3, 60
PROGRESS_SECONDS = 0.25  # whoever shows it wakes up for it, so not more often
OPENING = 1  # of the random numbers that order the opening


def measure(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """{"engines": [[name, folder]…], "inputs", "seed", "process", "seconds", "block", "cores", "plan"} to samples.

    `plan` is null in a race's first process, which finds it; the others are told, so that all have equally many rounds
    and calls. Gives {"plan": {"rounds", "calls", "repeat"}, "order", "engines": {name: {"samples", "warm_up", "joules"}}, "others",
    "energy"}: joules of a call, null where they cannot be read; "energy" says of what they are, or why not.
    Engines are opened in random order, since what is opened first lies elsewhere in memory. An engine asked for as "first"
    is opened before the others, and "cold_start" says what its first result cost.
    """
    add_plugins(request)
    process, seed = int(request["process"]), int(request["seed"])
    folders = {name: Path(folder) for name, folder in request["engines"]}
    indices = {name: index for index, name in enumerate(folders)}
    random, first, cold = np.random.default_rng([seed, process]), request.get("first"), None
    opening = sorted(shuffled(folders, np.random.default_rng([seed, process, OPENING])), key=lambda name: name != first)
    with pinned(request["cores"]), ExitStack() as opened:
        sessions: dict[str, Session] = {}
        inputs: dict[str, Sequence[Array]] = {}
        for name in opening:
            progress({"doing": f"opening {name}"})
            inputs[name] = sample_inputs(Signature.read(folders[name]), request["inputs"], seed)
            if name == first:
                sessions[name], cold = first_result(folders[name], inputs[name])
                opened.enter_context(sessions[name])
            else:
                sessions[name] = opened.enter_context(load_engine(folders[name]))
            clock = sessions[name].clock
            if isinstance(clock, VirtualClock):
                clock.restart(seed, process, indices[name])
        others = Others()
        with no_collection():
            warm: dict[str, WarmUp] = {}
            for name in shuffled(folders, random):
                progress({"doing": f"warming up {name}"})
                least = 0.0 if warm else WARM_SECONDS  # the first one warmed the machine's clock
                warm[name] = warm_up(partial(time_block, sessions[name], inputs[name]), least=least)
            plan = request["plan"]
            if plan is None:
                repeat = {
                    name: calls_per_sample(
                        partial(time_block, sessions[name], inputs[name]), resolution(sessions[name].clock)
                    )
                    for name in folders
                }
                medians = {name: warm[name].median for name in folders}
                plan = make_plan(medians, repeat, request["seconds"], request["block"])
            rounds, calls, repeat = plan["rounds"], plan["calls"], plan["repeat"]
            samples: dict[str, list[list[float]]] = {name: [] for name in folders}
            simulated = {name for name in folders if isinstance(sessions[name].clock, VirtualClock)}
            meter = energy.meter() if len(simulated) < len(folders) else energy.Meter(why=energy.SIMULATED)
            joules: dict[str, list[float]] = {name: [] for name in folders}
            order, told, racing = [], 0.0, f"measuring {', '.join(folders)}"
            for done in range(rounds):
                if time.monotonic() - told > PROGRESS_SECONDS:
                    told = time.monotonic()
                    progress({"doing": racing, "done": done, "total": rounds})
                order.append(shuffled(folders, random))
                for name in order[-1]:
                    time_block(sessions[name], inputs[name], 1)  # brings this engine's weights back into the caches
                    timed, used = meter.during(
                        partial(time_block, sessions[name], inputs[name], calls[name], repeat[name])
                    )
                    samples[name].append(timed)
                    if used is not None and name not in simulated:
                        joules[name].append(used / (calls[name] * repeat[name]))
        share = others.share()
        progress({"doing": racing, "done": rounds, "total": rounds})
    engines = {
        name: {"samples": samples[name], "warm_up": warm[name].to_json(), "joules": energy.mean(joules[name])}
        for name in folders
    }
    metered = {"of": meter.of, "why": meter.why}
    return {"plan": plan, "order": order, "engines": engines, "others": share, "cold_start": cold, "energy": metered}


def make_plan(medians: Mapping[str, float], repeat: Mapping[str, int], seconds: float, block: float) -> dict[str, Any]:
    """How many rounds, and how many calls of each engine in a block of at least `block` seconds.

    All engines have the same rounds, since ratios are paired by round: as many as the slowest fits into `seconds`, from
    3 to 60. One call before each block is not timed, and counts.

    >>> make_plan({"a": 0.001, "b": 0.004}, {"a": 1, "b": 1}, seconds=0.32, block=0.01)
    {'rounds': 20, 'calls': {'a': 10, 'b': 3}, 'repeat': {'a': 1, 'b': 1}}
    """
    calls, rounds = {}, MOST_ROUNDS
    for name, median in medians.items():
        sample = median * repeat[name]
        calls[name] = max(1, math.ceil(block / sample - 1e-9)) if sample > 0 else 1
        cost = (calls[name] * repeat[name] + 1) * median
        rounds = min(rounds, int(seconds / cost + 1e-9)) if cost > 0 else rounds
    return {"rounds": max(LEAST_ROUNDS, rounds), "calls": calls, "repeat": dict(repeat)}


def shuffled(names: Mapping[str, Any], random: np.random.Generator) -> list[str]:
    """The names in an order drawn from `random`."""
    known = list(names)
    return [known[i] for i in random.permutation(len(known))]


def sample_inputs(signature: Signature, files: Sequence[str] | None, seed: int) -> list[Array]:
    """One batch of inputs: the first samples of the .npy files, one a port; without files, seeded noise.

    Raises UserError if the files do not fit.
    """
    if files is None:
        return signature.noise(seed)
    if len(files) != len(signature.inputs):
        raise UserError(f"{len(files)} input file(s) for an engine with {len(signature.inputs)} input(s)")
    made: list[Array] = []
    for file, port in zip(files, signature.inputs, strict=True):
        shape = port.concrete(1)
        held = np.load(file, mmap_mode="r", allow_pickle=False)
        batch = shape[0] if shape else 1
        if held.ndim == len(shape) + 1 and len(held):
            made.append(np.array(held[0]))  # a whole input for each sample
            continue
        if held.ndim != len(shape) or len(held) < batch:
            raise UserError(f'{file}: shape {list(held.shape)} gives no batch of {batch} for input "{port.name}"')
        made.append(np.ascontiguousarray(held[:batch]))
    return made


def first_result(engine: Path, inputs: Sequence[Array]) -> tuple[Session, dict[str, Any]]:
    """An opened engine, and {"seconds", "base", "peak"} of its first result: what it costs a process that is new.

    Seconds from before the runtime is imported to the first result; on a simulated device, the first call's. Bytes of
    the largest resident set before (`base`: Python and numpy), and after (`peak`).
    """
    base, started = peak_memory(), time.perf_counter()
    session = load_engine(engine)
    session.run(inputs)
    seconds, peak = time.perf_counter() - started, peak_memory()
    if isinstance(session.clock, VirtualClock):
        seconds = session.clock.latency
    return session, {"seconds": seconds, "base": base, "peak": peak}


def cold_start(request: dict[str, Any], _: Progress) -> dict[str, Any]:
    """{"engine", "inputs", "seed", "cores"} to {"seconds", "base", "peak"}: what a first result costs a new process."""
    add_plugins(request)
    engine = Path(request["engine"])
    with pinned(request["cores"]):
        inputs = sample_inputs(Signature.read(engine), request["inputs"], request["seed"])
        session, found = first_result(engine, inputs)
        session.close()
    return found


def profile(request: dict[str, Any], _: Progress) -> dict[str, Any]:
    """{"engine", "inputs", "calls"} to {"operators"}: what the engine's backend says of its operators, null if nothing."""
    add_plugins(request)
    engine = Path(request["engine"])
    backend = open_backend(str(read_json(engine / "engine.json").get("backend")))
    inputs = sample_inputs(Signature.read(engine), request["inputs"], 0)
    return {"operators": backend.profile(engine, inputs, int(request["calls"]))}
