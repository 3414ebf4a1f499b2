"""One fresh process of a race, here or on a device: what it recorded, and what a new process's first result costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import worker
from edgekd.backend import read_json
from edgekd.errors import UserError
from edgekd.latency import machine
from edgekd.store import write_whole
from edgekd.worker import Progress

if TYPE_CHECKING:
    from edgekd.devices.device import Device

QUIET = 0.2


@dataclass(frozen=True)
class ColdStart:
    """A new process's way to a first result: seconds; bytes resident at most before loading, and after."""

    seconds: float
    base: int
    peak: int

    def to_json(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "base": self.base, "peak": self.peak}


@dataclass(frozen=True, eq=False)
class Turn:
    """What one process of a race recorded: `run` as rounds.py gives it, the machine's share in use before, the cores."""

    run: dict[str, Any]
    busy: float
    cores: tuple[int, ...]

    @property
    def plan(self) -> dict[str, Any]:
        """Rounds and calls, which all processes of a race share."""
        found: dict[str, Any] = self.run["plan"]
        return found

    @property
    def cold_start(self) -> ColdStart | None:
        """Of the engine asked for as first, if one was."""
        return ColdStart(**self.run["cold_start"]) if self.run["cold_start"] else None


@dataclass(frozen=True)
class Terms:
    """How one process of a race measures: `race`'s arguments. `plan`: that of its first process, or none in that.

    `first`: the engine that is opened before the others, whose cold start is told. `timeout`: seconds for all of it.
    """

    plan: Mapping[str, Any] | None
    inputs: Sequence[Path] | None
    seconds: float
    block: float
    threads: int
    seed: int
    wait: float
    quiet: float
    timeout: float
    tell: Progress
    first: str | None


def measure_once(
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
    plugins: Sequence[str],
    tell: Progress,
    first: str | None = None,
    device: Device | None = None,
) -> Turn:
    """One fresh process of a race, here or on a device; the arguments are those of `Terms`. `plugins`: files, for here."""
    if device is not None:
        terms = Terms(plan, inputs, seconds, block, threads, seed, wait, quiet, timeout, tell, first)
        return device.turn(engines, process, terms)
    share, per_cpu = machine.wait_until_quiet(wait, quiet, lambda share: tell({"busy": share}))
    cores = tuple(machine.choose_cores(threads, per_cpu))
    request = {
        "engines": [[name, str(folder)] for name, folder in engines.items()],
        "inputs": [str(p) for p in inputs] if inputs else None,
        "seed": seed,
        "plugins": list(plugins),
        "process": process,
        "seconds": seconds,
        "block": block,
        "cores": list(cores),
        "plan": plan,
        "first": first,
    }
    run = worker.call("measure", request, env=worker.thread_env(threads), timeout=timeout, on_progress=tell)
    return Turn(run, share, cores)


def time_limit(engines: int, seconds: float) -> float:
    """Seconds after which a process that should measure each engine for `seconds` hangs: well above what it should take."""
    return 120 + 10 * engines * (seconds + 5)


def kept_turn(folder: Path | None, process: int) -> Turn | None:
    """What an earlier try kept of this process of the same race, if it finished it."""
    try:
        found = read_json(folder / f"process-{process}.json") if folder else None
        return Turn(found["run"], found["busy"], tuple(found["cores"])) if found else None
    except (UserError, KeyError):
        return None


def keep_turn(folder: Path | None, process: int, turn: Turn) -> None:
    """Keep a finished process, whole or not at all."""
    if folder:
        found = {"run": turn.run, "busy": turn.busy, "cores": turn.cores}
        write_whole(folder / f"process-{process}.json", json.dumps(found).encode())
