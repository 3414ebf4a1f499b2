"""A device that is reached, held, and given engines: races, cold starts, counts and outputs there, through cut connections.

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

from edgekd import bundle
from edgekd.backend import Array, Signature, read_json
from edgekd.devices.bench import NAME, Deployed, runner_of
from edgekd.devices.client import Client
from edgekd.devices.counting import Counter, counter
from edgekd.devices.link import Lease, Link, LinkError
from edgekd.devices.process import Process
from edgekd.devices.samples import arrays, samples
from edgekd.devices.wire import plain
from edgekd.errors import EdgekdError, UserError
from edgekd.latency.conditions import spread
from edgekd.latency.instructions import CALLS
from edgekd.latency.rounds import sample_inputs
from edgekd.latency.turn import ColdStart, Terms, Turn
from edgekd.progress import Progress
from edgekd.reach import Adb, Exec, Served, Shelled, Ssh, TvmRpc
from edgekd.target import Target

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


def must_answer(target: Target, threads: int = 1) -> None:
    """Ask a target's device for a sign of life, and have its runner built: before hours of training, not after.

    Raises UserError or LinkError where there is none, or it cannot be.
    """
    if isinstance(target.reach, Shelled):
        runner_of(target, threads)
    try:
        with connect(target) as link:
            link.held(["0" * 64])
    except LinkError as error:
        message = f"the device of the target {target.name} does not answer: {error.message}"
        hint = error.hint or f"reach it by hand, then: edgekd devices probe {target.name}"
        raise LinkError(message, reason=error.reason, hint=hint) from None


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
        self._backends: set[str] = set()
        self._counts = 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(EdgekdError):  # the next measurement removes it
            self.link.remove_folder(self._lease.holder)
        self._scratch.cleanup()

    def turn(self, engines: Mapping[str, Path], process: int, terms: Terms) -> Turn:
        """One process of a race there."""
        places = {name: self._place(folder, terms.inputs, terms.seed) for name, folder in engines.items()}
        one = Process(places, process, terms)

        def attempt() -> None:
            with self._started(terms.timeout, [terms.seed, process]) as client:
                one.go_on(client)

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
                return client.open("cold", place).cold

        return self._through_cuts(attempt, lambda: 0)

    def instructions(
        self, engine: Path, inputs: Sequence[Path] | None, threads: int, timeout: float = 600.0
    ) -> tuple[float | None, str]:
        """Instructions of one call there, and what counted them if not the processor; or None, and why."""
        place = self._place(engine, inputs, 0)

        def attempt(by: Counter | None = None) -> tuple[float | None, str]:
            with self._started(timeout, [0], by) as client:
                client.pin(threads, [])
                client.open("counted", place)
                found = client.count("counted", by.calls if by else CALLS)
                return by.read(self.link, self._lease.holder, self._scratch.name) if by else found

        found, why = self._through_cuts(attempt, lambda: 0)
        if found is not None or NAME not in self._files:
            return found, why
        try:
            self._counts += 1
            by = counter(self.target, f"count-{self._counts}")
            self._files |= by.files
            return self._through_cuts(lambda: attempt(by), lambda: 0)
        except LinkError as error:
            if error.reason in ("cut", "refused", "timeout"):
                raise
            return None, f"{why}; nor from outside: {error.message.splitlines()[-1].strip(' |')}"

    def profile(
        self, engine: Path, inputs: Sequence[Path] | None, calls: int, timeout: float = 600.0
    ) -> list[dict[str, Any]] | None:
        """The rows of `Backend.profile` for an engine there; None where the runner has no profiler for it."""
        place = self._place(engine, inputs, 0)

        def attempt() -> list[dict[str, Any]] | None:
            with self._started(timeout, [0]) as client:
                return client.profile(place, calls)

        return self._through_cuts(attempt, lambda: 0)

    def outputs(self, engine: Path, inputs: Sequence[Array], timeout: float = 600.0) -> list[Array]:
        """The engine's outputs there for inputs [samples, …], an array a port: an array [samples, …] a port."""
        signature = Signature.read(engine)
        given_samples = list(samples(signature.inputs, inputs))
        place, given = self._place(engine, None, 0), Path(self._scratch.name) / GIVEN
        given.write_bytes(b"".join(value.tobytes() for sample in given_samples for value in sample))
        self._files[GIVEN] = given
        self._sent.discard(GIVEN)
        taken = given.with_name(TAKEN)

        def attempt() -> None:
            with self._started(timeout, [0]) as client:
                client.open("engine", place)
                client.run("engine", GIVEN, TAKEN)
            self.link.get(self._lease.holder, TAKEN, taken)

        self._through_cuts(attempt, lambda: 0)
        return arrays(signature, taken.read_bytes(), len(given_samples), inputs, self.link.label)

    def _place(self, engine: Path, inputs: Sequence[Path] | None, seed: int) -> dict[str, str]:
        """Where the engine, as a bundle, and one sample of its inputs lie in the work folder; sent when next connected."""
        asked = (str(engine), *map(str, inputs or ()), str(seed))
        if asked not in self._places:
            name = f"engines/{len(self._places)}"
            made, backend = Path(self._scratch.name) / name, str(read_json(engine / "engine.json").get("backend"))
            bundle.write(made, engine, {"edgekd": "", "backend": backend}, {}, [], [])
            self._backends.add(backend)
            sample = sample_inputs(Signature.read(engine), [str(p) for p in inputs] if inputs else None, seed)
            fed = made.with_name(f"{made.name}-{INPUTS}")
            fed.write_bytes(b"".join(value.tobytes() for value in sample))
            self._files[f"{name}-{INPUTS}"] = fed
            self._files |= {f"{name}/{p.relative_to(made).as_posix()}": p for p in made.rglob("*") if p.is_file()}
            self._places[asked] = name
        name = self._places[asked]
        return {"bundle": name, "inputs": f"{name}-{INPUTS}"}

    @contextmanager
    def _started(self, timeout: float, seed: Sequence[int], by: Counter | None = None) -> Iterator[Client]:
        """A fresh process of the runner there, with all files in its folder, under what counts its instructions.

        Raises LinkError, at the end too, if another has measured there meanwhile.
        """
        self._lease.check()
        if self._sent != set(self._files):
            self.link.send(self._lease.holder, self._files, self._runner.programs)
            self._sent = set(self._files)
        command, environment = self._runner.command, self._runner.environment
        if by:
            command, environment = (*by.before, *command), {**environment, **by.environment}
        with self.link.start(self._lease.holder, command, environment) as talk:
            client = Client(talk, timeout, seed)
            self._check(client.hello)
            yield client
        self._lease.check()

    def _check(self, hello: Mapping[str, Any]) -> None:
        """Raises UserError if the device is not what the target says, or its runner does not open such engines."""
        found, opens = hello.get("machine", {}), hello.get("backends", list(self._backends))
        triple, isa = plain(str(found.get("triple") or "")[:60]), found.get("isa") or []
        if strange := next((name for name in sorted(self._backends) if name not in opens), ""):
            message = f"{self.link.label}: its runner opens engines of {plain(', '.join(opens))}, not of {strange}"
            cure = f'say where its libraries for the device are: [reach] library = {{ {strange} = "FOLDER" }}; or [reach] python'
            raise UserError(message, hint=cure if NAME in self._files else f"install {strange} on the device")
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
