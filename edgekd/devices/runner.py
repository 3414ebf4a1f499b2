"""The runner where the device has a Python with edgekd: `python -m edgekd.devices.runner` in a work folder.

It answers requests on stdin, one JSON object a line, as `edgekd-bench --serve` does (docs/devices.md). What native code prints
goes to stderr. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, final

import numpy as np

from edgekd import __version__, bundle, registry
from edgekd.backend import Array, Session, Signature, open_backend, read_json
from edgekd.devices.link import check_path
from edgekd.errors import EdgekdError, UserError
from edgekd.latency import instructions, machine
from edgekd.latency.clock import VirtualClock, no_collection, resolution
from edgekd.latency.conditions import conditions, features
from edgekd.latency.energy import SIMULATED, Meter
from edgekd.latency.energy import meter as energy_meter
from edgekd.latency.rounds import first_result
from edgekd.target import this_machine

PROTOCOL = 1
Answer = Callable[[str, Mapping[str, Any]], None]


@final
class Runner:
    """Opened engines by name, each with the inputs that it is timed on. A method is a request."""

    def __init__(self, stack: ExitStack, answer: Answer) -> None:
        self._stack, self._answer = stack, answer
        self._opened: dict[str, tuple[Session, list[Array]]] = {}
        self._cores: list[int] = []
        self._meter = energy_meter()

    def hello(self, seed: Sequence[int] = ()) -> dict[str, Any]:
        """What runs here, and what this machine is. `seed` belongs to simulated devices."""
        self._seed = list(seed)
        names = [name for name in registry.names("backends") if not open_backend(name).missing(to_open=True)]
        about = {**this_machine(), "isa": features()}
        energy = {"of": self._meter.of, "why": self._meter.why}
        runner = f"edgekd {__version__}, Python"
        return {"protocol": PROTOCOL, "runner": runner, "backends": names, "machine": about, "energy": energy}

    def busy(self, seconds: float) -> dict[str, Any]:
        share, per_cpu = machine.busy(seconds)
        return {"share": share, "per_cpu": per_cpu}

    def pin(self, threads: int, used: Sequence[float]) -> dict[str, Any]:
        self._cores = machine.choose_cores(threads, used)
        self._stack.enter_context(machine.pinned(self._cores))
        return {"cores": self._cores}

    def open(self, name: str, bundle: str, inputs: str, index: int) -> dict[str, Any]:
        """Open a bundle and compute its first result, and say what that cost. `index`: the engine's, in its race."""
        folder = Path(check_path(bundle))
        read_bundle(folder)
        fed = read_samples(Path(check_path(inputs)), Signature.read(folder / "engine"))[0]
        session, cost = first_result(folder / "engine", fed)
        self._stack.enter_context(session)
        if isinstance(session.clock, VirtualClock):
            session.clock.restart(*self._seed, index)
        self._opened[name] = session, fed
        return {**cost, "step": resolution(session.clock)}

    def time(self, blocks: Sequence[tuple[str, int, int]], lead: int) -> dict[str, Any]:
        """Time each block (engine, samples, calls a sample), after `lead` calls that are not timed, and answer with it."""
        others, before = machine.Others(), conditions(self._cores)
        for index, (name, samples, repeat) in enumerate(blocks):
            session, fed = self._opened[name]
            for _ in range(lead):
                session.run(fed)
            meter = Meter(why=SIMULATED) if isinstance(session.clock, VirtualClock) else self._meter
            taken, joules = meter.during(partial(_timed, session, fed, samples, repeat))
            after = conditions(self._cores)
            self._answer("block", {"index": index, "ns": taken, "conditions": [before, after], "joules": joules})
            before = after
        return {"others": others.share()}

    def run(self, name: str, inputs: str, outputs: str) -> dict[str, Any]:
        """Outputs for each sample of a file, into another."""
        session, _ = self._opened[name]
        samples = read_samples(Path(check_path(inputs)), session.signature)
        with Path(check_path(outputs)).open("wb") as file:
            for fed in samples:
                found = zip(session.signature.outputs, session.run(fed), strict=True)
                file.writelines(np.ascontiguousarray(y, dtype=port.dtype).tobytes() for port, y in found)
        return {"samples": len(samples)}

    def count(self, name: str, calls: int) -> dict[str, Any]:
        """Instructions of one of so many calls, or null and why."""
        session, fed = self._opened[name]
        found, why = instructions.per_call(session, fed, calls)
        return {"instructions": found, "why": why}

    def profile(self, bundle: str, inputs: str, calls: int) -> dict[str, Any]:
        """What the backend says of the operators of a bundle's engine; null if nothing."""
        folder = Path(check_path(bundle))
        read_bundle(folder)
        engine = folder / "engine"
        fed = read_samples(Path(check_path(inputs)), Signature.read(engine))[0]
        backend = open_backend(str(read_json(engine / "engine.json").get("backend")))
        return {"operators": backend.profile(engine, fed, calls)}


def _timed(session: Session, fed: list[Array], samples: int, repeat: int) -> list[int]:
    """Nanoseconds of each sample."""
    clock, run, again = session.clock, session.run, range(repeat)
    taken = [0] * samples
    for sample in range(samples):
        start = clock()
        for _ in again:
            run(fed)
        taken[sample] = clock() - start
    return taken


def read_bundle(folder: Path) -> None:
    """Raises UserError if the bundle is not what it was when it was written."""
    bundle.read(folder)


def read_samples(file: Path, signature: Signature) -> list[list[Array]]:
    """Samples of all inputs, one behind the other: each port's elements in C order; dynamic sizes are 1."""
    ports = [(port.concrete(1), np.dtype(port.dtype)) for port in signature.inputs]
    sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in ports]
    held = file.read_bytes()
    if not held or len(held) % sum(sizes):
        raise UserError(f"{file}: {len(held)} bytes are no whole number of samples of {sum(sizes)} bytes")
    found = []
    for start in range(0, len(held), sum(sizes)):
        sample = []
        for (shape, dtype), size in zip(ports, sizes, strict=True):
            sample.append(np.frombuffer(held, dtype, count=size // dtype.itemsize, offset=start).reshape(shape).copy())
            start += size
        found.append(sample)
    return found


REQUESTS = ("hello", "busy", "pin", "open", "time", "run", "count", "profile")


def main() -> NoReturn:
    serve(Runner)


def serve(make: Callable[[ExitStack, Answer], Any]) -> NoReturn:
    """Answer requests by the methods of what `make` gives, until the input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(kind: str, value: Mapping[str, Any]) -> None:
        channel.write(json.dumps({kind: value}, allow_nan=False) + "\n")
        channel.flush()

    with ExitStack() as stack, no_collection():
        runner = make(stack, answer)
        for line in sys.stdin:
            try:
                request = json.loads(line)
                do = request.pop("do")
                if do not in REQUESTS:
                    raise UserError(f"no request {do!r}", hint=f"known: {', '.join(REQUESTS)}")
                answer("done", getattr(runner, do)(**request))
            except UserError as error:
                answer("error", {"kind": "user", "message": error.message, "hint": error.hint})
            except EdgekdError as error:
                answer("error", {"kind": "failed", "message": error.message, "hint": error.hint})
            except BrokenPipeError:
                break  # nobody listens any more
            except Exception as error:
                answer("error", {"kind": "failed", "message": f"{type(error).__name__}: {error}", "hint": ""})
    sys.stderr.flush()
    os._exit(0)  # runtimes' own exit handlers have crashed


if __name__ == "__main__":
    main()
