"""Engines raced against each other: several fresh processes, in each of which all engines take interleaved turns.

Two numbers taken minutes apart on one machine differ by more than what is to be told apart, so engines that are compared
run side by side, in an order drawn anew for each round, and the processes tell how much of a difference is only where
memory happened to lie. The same engine under two names is an A/A control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import worker
from edgekd.backend import read_json
from edgekd.errors import UserError
from edgekd.latency import statistics
from edgekd.latency.clock import WarmUp
from edgekd.latency.energy import UNTOLD
from edgekd.latency.statistics import Latency, Ratio, Samples
from edgekd.latency.turn import QUIET, ColdStart, Turn, keep_turn, kept_turn, measure_once, time_limit
from edgekd.worker import Progress

if TYPE_CHECKING:
    from edgekd.devices.device import Device

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Runner:
    """One engine in a race: `samples [process, round, call]` in seconds, each the mean of `repeat` calls (mostly 1).

    `joules [process]` of a call; none where they could not be read.
    """

    name: str
    facts: Mapping[str, Any]
    samples: Samples
    repeat: int
    warm_up: tuple[WarmUp, ...]
    cold_start: tuple[ColdStart, ...]
    joules: tuple[float, ...] = ()

    def latency(self, seed: int = 0) -> Latency:
        """Median, p90 and p99 with their intervals."""
        return statistics.latency(self.samples, seed)

    def to_json(self) -> dict[str, Any]:
        return {
            "facts": dict(self.facts),
            "samples": self.samples.tolist(),
            "repeat": self.repeat,
            "warm_up": [w.to_json() for w in self.warm_up],
            "cold_start": [c.to_json() for c in self.cold_start],
            "joules": list(self.joules),
        }

    @classmethod
    def from_json(cls, name: str, found: Mapping[str, Any]) -> Runner:
        samples = np.asarray(found["samples"], dtype=np.float64)
        warm = tuple(WarmUp(**w) for w in found["warm_up"])
        cold = tuple(ColdStart(**c) for c in found["cold_start"])
        return cls(name, found["facts"], samples, found["repeat"], warm, cold, tuple(found.get("joules", ())))


@dataclass(frozen=True, eq=False)
class Race:
    """What a race recorded. `order [process][round]`: names in the order they ran. Shares of the machine, 0 to 1:

    `busy [process]`: in use before the process started; `others [process]`: in use by other processes while it ran.
    `device`: where it ran, if not here, with temperatures and frequencies around each block (docs/devices.md).
    `energy`: {"of": what its joules are of, "why": why there are none}.
    """

    runners: Mapping[str, Runner]
    order: Sequence[Sequence[Sequence[str]]]
    busy: tuple[float, ...]
    others: tuple[float, ...]
    cores: tuple[tuple[int, ...], ...]
    seed: int
    threads: int
    device: Mapping[str, Any] | None = None
    energy: Mapping[str, str] = field(default_factory=lambda: UNTOLD)

    def ratio(self, a: str, b: str) -> Ratio:
        """Latency of `a` over latency of `b`, paired by round, with its interval."""
        return statistics.ratio(self.runners[a].samples, self.runners[b].samples, self.seed)

    @property
    def disturbed(self) -> bool:
        """Whether other processes took more of the machine than a quiet one's share."""
        return max((*self.busy, *self.others), default=0.0) > QUIET

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "seed": self.seed,
            "threads": self.threads,
            "busy": list(self.busy),
            "others": list(self.others),
            "cores": [list(c) for c in self.cores],
            "order": [[list(names) for names in rounds] for rounds in self.order],
            "engines": {name: runner.to_json() for name, runner in self.runners.items()},
            "energy": dict(self.energy),
            **({"device": dict(self.device)} if self.device else {}),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Race:
        """Raises UserError if `found` is of another format."""
        if found.get("format") != FORMAT:
            raise UserError(f"a race of format {found.get('format')}, this edgekd reads {FORMAT}")
        return cls(
            runners={name: Runner.from_json(name, engine) for name, engine in found["engines"].items()},
            order=found["order"],
            busy=tuple(found["busy"]),
            others=tuple(found["others"]),
            cores=tuple(tuple(c) for c in found["cores"]),
            seed=found["seed"],
            threads=found["threads"],
            device=found.get("device"),
            energy=found.get("energy") or UNTOLD,
        )


def race(
    engines: Mapping[str, Path],
    *,
    inputs: Sequence[Path] | None = None,
    processes: int = 3,
    seconds: float = 2.0,
    block: float = 0.01,
    cold_starts: int = 1,
    threads: int | None = None,
    seed: int = 0,
    wait: float = 5.0,
    quiet: float = QUIET,
    timeout: float | None = None,
    plugins: Sequence[str] = (),
    on_progress: Progress | None = None,
    device: Device | None = None,
    kept: Path | None = None,
) -> Race:
    """Race `engines` (name to engine folder).

    `inputs`: .npy files, one per input, whose first samples every engine is fed; none: seeded noise. `seconds`: timed per
    engine, over all processes. `block`: each block of calls lasts at least so many seconds. `cold_starts`: extra fresh
    processes per engine, for cold start and memory. `threads`: as many cores are pinned to; by default what the engines
    were compiled for. `wait`: how many seconds at most a machine with more than `quiet` of
    its time in use is waited for before each process. `timeout`: per process, in seconds; by default well above what the
    work should take. `device`: where they run; none: here. `kept`: a folder where finished processes are kept, for the same
    race asked for again. Progress: {"doing", "done", "total"} over the whole race, {"busy"} while waiting.

    Raises UserError for no engines, impossible numbers or an engine that cannot be opened, WorkerError if one crashes.
    """
    if not engines:
        raise UserError("a race needs at least one engine")
    facts = {name: read_json(folder / "engine.json") for name, folder in engines.items()}
    if threads is None:
        threads = max(int(known.get("threads", 1)) for known in facts.values())
    if processes < 1 or cold_starts < 0 or threads < 1 or not (seconds > 0 and block > 0):
        raise UserError("a race needs at least one process and thread, and times of more than 0 seconds")
    tell = on_progress or (lambda _: None)
    limit = timeout or time_limit(len(engines), seconds / processes)
    turns: list[Turn] = []
    for process in range(processes):
        if finished := kept_turn(kept, process):
            turns.append(finished)
            continue
        turn = measure_once(
            engines,
            process,
            plan=turns[0].plan if turns else None,
            inputs=inputs,
            seconds=seconds / processes,
            block=block,
            threads=threads,
            seed=seed,
            wait=wait,
            quiet=quiet,
            timeout=limit,
            plugins=plugins,
            tell=_placed(tell, process, processes),
            device=device,
        )
        turns.append(turn)
        keep_turn(kept, process, turn)
    env = worker.thread_env(threads)
    shared = {"inputs": [str(p) for p in inputs] if inputs else None, "seed": seed, "plugins": list(plugins)}
    cold: dict[str, list[ColdStart]] = {name: [] for name in engines}
    for name, folder in engines.items():
        for _ in range(cold_starts):
            tell({"doing": f"cold start of {name}"})
            if device is not None:
                cold[name].append(device.cold_start(folder, inputs, seed, threads, limit))
                continue
            request = {**shared, "engine": str(folder), "cores": list(turns[-1].cores)}
            cold[name].append(ColdStart(**worker.call("cold_start", request, env=env, timeout=limit)))
    return gathered(facts, turns, cold, seed, threads)


def gathered(
    facts: Mapping[str, Any], turns: Sequence[Turn], cold: Mapping[str, Sequence[ColdStart]], seed: int, threads: int
) -> Race:
    """The race that these processes were. `facts`: engine.json of each engine; `cold`: its cold starts."""
    runs = [turn.run for turn in turns]
    runners = {
        name: Runner(
            name,
            facts[name],
            np.array([run["engines"][name]["samples"] for run in runs]),
            turns[0].plan["repeat"][name],
            tuple(WarmUp(**run["engines"][name]["warm_up"]) for run in runs),
            tuple(cold[name]),
            tuple(joules for run in runs if (joules := run["engines"][name].get("joules")) is not None),
        )
        for name in facts
    }
    busy, others = tuple(turn.busy for turn in turns), tuple(run["others"] for run in runs)
    device = None
    if "device" in runs[0]:
        device = {**runs[0]["device"], "processes": [one for run in runs for one in run["device"]["processes"]]}
    cores, order = tuple(turn.cores for turn in turns), [run["order"] for run in runs]
    metered = runs[0].get("energy") or UNTOLD
    return Race(runners, order, busy, others, cores, seed, threads, device, metered)


def _placed(tell: Progress, process: int, processes: int) -> Progress:
    """Progress of one process as progress of the whole race."""

    def place(value: dict[str, Any]) -> None:
        if "total" in value:
            value = {**value, "done": process * value["total"] + value["done"], "total": processes * value["total"]}
        tell({**value, "process": process})

    return place
