"""One process of a race on a device: as latency/rounds.py does it here, in rounds that outlive a connection."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from edgekd.devices.client import Client, Timed, backwards
from edgekd.devices.wire import plain
from edgekd.latency.clock import RETRIES, WARM_SECONDS, WarmUp, calls_per_sample, warm_up
from edgekd.latency.energy import mean
from edgekd.latency.machine import wait_until_quiet
from edgekd.latency.rounds import OPENING, PROGRESS_SECONDS, make_plan, shuffled
from edgekd.latency.turn import ColdStart, Terms, Turn

LOOK_SECONDS = 0.2  # the load is looked at for


@final
class Process:
    """What is to be measured and what was: whole rounds stay, whatever happens to the connection.

    `places`: the arguments of the runner's `open` by engine. The draws are those of latency/rounds.py, so a race there takes
    its engines in the same order as one here. After a cut the rounds that are left run in a new process on the device.
    """

    def __init__(self, places: Mapping[str, Mapping[str, str]], process: int, terms: Terms) -> None:
        self._places, self._process, self._terms = places, process, terms
        self._plan = dict(terms.plan) if terms.plan else None
        self._warm: dict[str, WarmUp] = {}
        self._cold: ColdStart | None = None
        self._busy: float | None = None
        self._others: list[float] = []
        self._cores: tuple[int, ...] = ()
        self._order: list[list[str]] = []
        self._rounds: dict[int, list[Timed]] = {}
        self._runner: dict[str, Any] = {}
        self._energy: dict[str, str] | None = None
        self._connections = 0

    @property
    def finished(self) -> int:
        """Rounds that are whole."""
        return len(self._rounds)

    def go_on(self, client: Client) -> None:
        """Measure what is left on a fresh process of the runner."""
        terms, tell = self._terms, self._terms.tell
        self._connections += 1
        self._runner = {k: client.hello.get(k) for k in ("runner", "machine")}
        if isinstance(told := client.hello.get("energy"), dict):
            self._energy = {key: plain(str(told.get(key) or ""))[:200] for key in ("of", "why")}
        share, per_cpu = wait_until_quiet(
            terms.wait, terms.quiet, lambda busy: tell({"busy": busy}), lambda: client.busy(LOOK_SECONDS)
        )
        self._busy = share if self._busy is None else max(self._busy, share)
        self._cores = client.pin(terms.threads, per_cpu)
        drawn = np.random.default_rng([terms.seed, self._process, OPENING])
        steps = {}
        for name in sorted(shuffled(self._places, drawn), key=lambda name: name != terms.first):
            tell({"doing": f"opening {name}"})
            opened = client.open(name, self._places[name], list(self._places).index(name))
            steps[name] = opened.step
            if name == terms.first and self._cold is None:
                self._cold = opened.cold
        random = np.random.default_rng([terms.seed, self._process])
        for name in shuffled(self._places, random):
            tell({"doing": f"warming up {name}"})
            least = 0.0 if self._warm else WARM_SECONDS  # as rounds.py does
            self._warm[name] = warm_up(client.block(name), least=least)
        if self._plan is None:
            repeat = {name: calls_per_sample(client.block(name), steps[name]) for name in self._places}
            medians = {name: self._warm[name].median for name in self._places}
            self._plan = make_plan(medians, repeat, terms.seconds, terms.block)
        self._order = [shuffled(self._places, random) for _ in range(self._plan["rounds"])]
        for _ in range(RETRIES + 1):
            if left := [number for number in range(len(self._order)) if number not in self._rounds]:
                self._time(client, left)
        if self.finished < len(self._order):
            raise backwards(str(client.hello.get("runner")))

    def _time(self, client: Client, left: list[int]) -> None:
        """Time these rounds. One in which the clock went backwards is not kept.

        The first round is run twice, and the first time is not kept: while the link was asked, the device fell asleep.
        """
        assert self._plan is not None
        calls, repeat, tell = self._plan["calls"], self._plan["repeat"], self._terms.tell
        width, doing, told = len(self._places), f"measuring {', '.join(self._places)}", 0.0
        blocks = [(name, calls[name], repeat[name]) for number in (left[0], *left) for name in self._order[number]]
        held: list[Timed] = []

        def take(timed: Timed) -> None:
            nonlocal told
            held.append(timed)
            if len(held) < width:
                return
            turn = timed.index // width
            if turn and min(min(one.nanoseconds) for one in held) >= 0:
                self._rounds[left[turn - 1]] = list(held)
            held.clear()
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                tell({"doing": doing, "done": self.finished, "total": len(self._order)})

        self._others.append(client.time(blocks, 1, take))
        tell({"doing": doing, "done": self.finished, "total": len(self._order)})

    def turn(self, where: Mapping[str, Any]) -> Turn:
        """What was measured, as latency/rounds.py gives it, with what the device said of itself."""
        assert self._plan is not None
        samples: dict[str, list[list[float]]] = {name: [] for name in self._places}
        joules: dict[str, list[float]] = {name: [] for name in self._places}
        for number, names in enumerate(self._order):
            for name, timed in zip(names, self._rounds[number], strict=True):
                scale = 1e9 * self._plan["repeat"][name]
                samples[name].append([taken / scale for taken in timed.nanoseconds])
                if timed.joules is not None:
                    joules[name].append(timed.joules * 1e9 / (scale * len(timed.nanoseconds)))
        around = [timed.conditions for number in range(len(self._order)) for timed in self._rounds[number]]
        run = {
            "plan": self._plan,
            "order": self._order,
            "engines": {
                name: {"samples": samples[name], "warm_up": self._warm[name].to_json(), "joules": mean(joules[name])}
                for name in self._places
            },
            "others": max(self._others, default=0.0),
            "cold_start": self._cold.to_json() if self._cold else None,
            "energy": self._energy,
            "device": {
                **where,
                **self._runner,
                "processes": [{"resumed": self._connections - 1, "conditions": around}],
            },
        }
        return Turn(run, self._busy or 0.0, self._cores)
