"""A device that is reached, held, and given engines: races, cold starts and outputs there, through cut connections.

A connection that is cut is opened again a few times; what was finished before is kept, and the files are still there.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np

from edgekd import bundle
from edgekd.backend import Array, Port, Signature, read_json
from edgekd.devices.bench import Deployed, runner_of
from edgekd.devices.client import Client
from edgekd.devices.link import Lease, Link, LinkError
from edgekd.devices.process import Process
from edgekd.errors import UserError
from edgekd.latency.conditions import spread
from edgekd.latency.rounds import sample_inputs
from edgekd.latency.turn import ColdStart, Turn
from edgekd.progress import Progress
from edgekd.reach import Adb, Exec, Served, Ssh, TvmRpc
from edgekd.target import Target
from edgekd.worker import Progress as Tell

PAUSES = (1.0, 3.0, 10.0)  # seconds before a cut connection is opened again, each time without progress
INPUTS, GIVEN, TAKEN = "inputs.bin", "given.bin", "taken.bin"
T = TypeVar("T")


def connect(target: Target) -> Link:
    """The way to a target's device. Raises UserError where the target does not say enough, LinkError."""
    reach = target.reach
    if isinstance(reach, Ssh):
        from edgekd.devices.ssh import SshLink

        return SshLink(reach, target.name)
    if isinstance(reach, Adb):
        from edgekd.devices.adb import AdbLink

        return AdbLink(reach, target.name)
    if isinstance(reach, Exec):
        from edgekd.devices.exec import ExecLink

        return ExecLink(reach, target.name)
    if isinstance(reach, Served):
        from edgekd.devices.served import open_served

        return open_served(reach, target.name)
    if isinstance(reach, TvmRpc):
        from edgekd.devices.tvm_rpc import TvmRpcLink

        return TvmRpcLink(reach, target.name)
    raise UserError(f"{target.name}: {target.unmeasured or 'this machine is the device'}", hint="see targets/README.md")


@contextmanager
def reached(target: Target, progress: Progress, threads: int = 1) -> Iterator[Device]:
    """The target's device, this measurement alone on it; another's end is waited for, and that is said."""

    def waiting(other: str) -> None:
        progress.say(f"  waiting: {other} measures on {target.name}")

    runner = runner_of(target, threads)
    with (
        connect(target) as link,
        link.hold(who(), waiting) as lease,
        Device(target, link, lease, runner, progress) as device,
    ):
        yield device


def who() -> str:
    """What others on a device see of this process: HOST-PID."""
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()).strip("-") or "host"
    return f"{host[:40]}-{os.getpid()}"


@final
class Device:
    """A device held by `lease`. `pauses`: seconds before each further try after a cut."""

    def __init__(
        self,
        target: Target,
        link: Link,
        lease: Lease,
        runner: Deployed,
        progress: Progress,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self.target, self.link = target, link
        self._lease, self._runner, self._progress, self._pauses = lease, runner, progress, pauses
        self._scratch = tempfile.TemporaryDirectory(prefix="edgekd-device-")
        self._files: dict[str, Path] = dict(runner.files)
        self._places: dict[tuple[str, ...], str] = {}
        self._sent: set[str] = set()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(LinkError):  # the next measurement removes it
            self.link.remove_folder(self._lease.holder)
        self._scratch.cleanup()

    def turn(
        self,
        engines: Mapping[str, Path],
        process: int,
        *,
        plan: Mapping[str, Any] | None,
        inputs: Sequence[Path] | None,
        seconds: float,
        block: float,
        threads: int,
        seed: int,
        wait: float,
        quiet: float,
        timeout: float,
        tell: Tell,
        first: str | None,
    ) -> Turn:
        """One process of a race there; the arguments are those of `latency.turn.measure_once`."""
        places = {name: self._place(folder, inputs, seed) for name, folder in engines.items()}
        one = Process(places, process, plan=plan, seconds=seconds, block=block, threads=threads, seed=seed, first=first)

        def attempt() -> None:
            with self._started(timeout, [seed, process]) as client:
                one.go_on(client, wait, quiet, tell)

        self._through_cuts(attempt, lambda: one.finished)
        return one.turn({"target": self.target.name, "reach": self.target.reach.kind, "label": self.link.label})

    def cold_start(
        self, engine: Path, inputs: Sequence[Path] | None, seed: int, threads: int, timeout: float
    ) -> ColdStart:
        """What a first result of the engine costs a new process there."""
        place = self._place(engine, inputs, seed)

        def attempt() -> ColdStart:
            with self._started(timeout, [seed]) as client:
                client.pin(threads, [])
                opened = client.open("cold", place)
                return ColdStart(opened.seconds, opened.base, opened.peak)

        return self._through_cuts(attempt, lambda: 0)

    def outputs(self, engine: Path, inputs: Sequence[Array], timeout: float = 600.0) -> list[Array]:
        """The engine's outputs there for inputs [samples, …], an array a port: an array [samples, …] a port."""
        signature = Signature.read(engine)
        samples = list(_samples(signature.inputs, inputs))
        place, given = self._place(engine, None, 0), Path(self._scratch.name) / GIVEN
        given.write_bytes(b"".join(value.tobytes() for sample in samples for value in sample))
        self._files[GIVEN] = given
        self._sent.discard(GIVEN)
        taken = given.with_name(TAKEN)

        def attempt() -> None:
            with self._started(timeout, [0]) as client:
                client.open("engine", place)
                client.run("engine", GIVEN, TAKEN)
            self.link.get(self._lease.holder, TAKEN, taken)

        self._through_cuts(attempt, lambda: 0)
        return _arrays(signature, taken.read_bytes(), len(samples), inputs, self.link.label)

    def _place(self, engine: Path, inputs: Sequence[Path] | None, seed: int) -> dict[str, str]:
        """Where the engine, as a bundle, and one sample of its inputs lie in the work folder; sent when next connected."""
        asked = (str(engine), *map(str, inputs or ()), str(seed))
        if asked not in self._places:
            name = f"engines/{len(self._places)}"
            made = Path(self._scratch.name) / name
            bundle.write(
                made, engine, {"edgekd": "", "backend": read_json(engine / "engine.json").get("backend")}, {}, [], []
            )
            sample = sample_inputs(Signature.read(engine), [str(p) for p in inputs] if inputs else None, seed)
            fed = made.with_name(f"{made.name}-{INPUTS}")
            fed.write_bytes(b"".join(value.tobytes() for value in sample))
            self._files[f"{name}-{INPUTS}"] = fed
            self._files |= {f"{name}/{p.relative_to(made).as_posix()}": p for p in made.rglob("*") if p.is_file()}
            self._places[asked] = name
        name = self._places[asked]
        return {"bundle": name, "inputs": f"{name}-{INPUTS}"}

    @contextmanager
    def _started(self, timeout: float, seed: Sequence[int]) -> Iterator[Client]:
        """A fresh process of the runner there, with all files in its folder."""
        self._lease.check()
        if self._sent != set(self._files):
            self.link.send(self._lease.holder, self._files, self._runner.programs)
            self._sent = set(self._files)
        with self.link.start(self._lease.holder, self._runner.command, self._runner.environment) as talk:
            client = Client(talk, timeout, seed)
            self._check(client.hello)
            yield client

    def _check(self, hello: Mapping[str, Any]) -> None:
        """Raises UserError if the device is not what the target says."""
        found = hello.get("machine") or {}
        triple, isa = found.get("triple"), found.get("isa") or []
        if triple and triple != self.target.triple:
            message = f"{self.link.label} is {triple}, the target {self.target.name} is {self.target.triple}"
            raise UserError(message, hint="reach another device, or mend the target's triple")
        lacking = [flag for flag in self.target.isa if flag not in isa] if isa else []
        if lacking:
            message = f"{self.link.label} has no {', '.join(lacking)}, which the target {self.target.name} has"
            raise UserError(message, hint="reach another device, or mend the target's isa")

    def _through_cuts(self, attempt: Callable[[], T], finished: Callable[[], int]) -> T:
        """What `attempt` gives, tried again after a cut. Each that finished something gives back all further tries."""
        failures, before = 0, finished()
        while True:
            try:
                return attempt()
            except LinkError as error:
                if error.reason != "cut":
                    raise
                self._sent.clear()
                failures = 1 if finished() > before else failures + 1
                before = finished()
                if failures > len(self._pauses):
                    message = f"{error.message}\ngiven up after {failures} tries"
                    raise LinkError(
                        message, reason="cut", hint=error.hint or "run it again: what was finished is kept"
                    ) from None
                self._progress.say(f"  {self.link.label}: the connection was cut; trying again")
                time.sleep(self._pauses[failures - 1])


def told(device: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of where a race ran, without the reading around each block."""
    readings = [one for process in device["processes"] for around in process["conditions"] for one in around]
    resumed = sum(process["resumed"] for process in device["processes"])
    return {**{k: v for k, v in device.items() if k != "processes"}, **spread(readings), "resumed": resumed}


def _samples(ports: Sequence[Port], inputs: Sequence[Array]) -> Iterator[list[Array]]:
    """Whole inputs of an engine out of arrays [samples, …]; a batch that is not full repeats its last sample."""
    shapes = [port.concrete(1) for port in ports]
    whole = any(array.ndim > len(shape) for array, shape in zip(inputs, shapes, strict=True))
    batch = 1 if whole else shapes[0][0]
    for start in range(0, len(inputs[0]), batch):
        taken = []
        for array, shape, port in zip(inputs, shapes, ports, strict=True):
            value = array[start] if whole else array[start : start + batch]
            if not whole and len(value) < batch:
                value = np.concatenate([value, np.repeat(value[-1:], batch - len(value), axis=0)])
            if value.shape != shape:
                raise UserError(f'input "{port.name}" has shape {list(value.shape)}, a device is given {list(shape)}')
            taken.append(np.ascontiguousarray(value, dtype=port.dtype))
        yield taken


def _arrays(signature: Signature, held: bytes, count: int, inputs: Sequence[Array], label: str) -> list[Array]:
    """Outputs [samples, …] a port out of `count` results, one behind the other."""
    ports = [(port.concrete(1), np.dtype(port.dtype)) for port in signature.outputs]
    row = np.dtype([(f"{i}", dtype, shape) for i, (shape, dtype) in enumerate(ports)])
    if len(held) != count * row.itemsize:
        message = f"{label}: {len(held)} bytes of outputs, {count * row.itemsize} expected"
        raise LinkError(message, reason="garbage")
    rows = np.frombuffer(held, row)
    whole = any(array.ndim > len(port.shape) for array, port in zip(inputs, signature.inputs, strict=True))
    arrays = [rows[name] for name in row.names or ()]
    return [a if whole else a.reshape(-1, *a.shape[2:])[: len(inputs[0])] for a in arrays]
