"""This machine's side of the runner's protocol (docs/devices.md): one request at a time, and what its answers must be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

from edgekd.devices.link import LinkError, Talk
from edgekd.devices.wire import plain
from edgekd.errors import UserError
from edgekd.latency.clock import RETRIES, Block, ClockError
from edgekd.latency.turn import ColdStart

PROTOCOL = 1
HELLO_SECONDS = 60.0  # a small board takes a while to start a Python
MOST_WORDS = 4000  # letters of what a device says is wrong
T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """One block: nanoseconds of each sample, what the sensors said before and after it, and its joules where the device tells them."""

    index: int
    nanoseconds: list[int]
    conditions: list[dict[str, Any]]
    joules: float | None = None


@dataclass(frozen=True)
class Opened:
    """What a first result cost a new process, and the clock's step in seconds."""

    cold: ColdStart
    step: float


@final
class Client:
    """A runner that was started. `hello`: what it said it is. Everything must be answered by `end` (monotonic seconds)."""

    def __init__(self, talk: Talk, timeout: float, seed: Sequence[int] = ()) -> None:
        self._talk, self._end = talk, time.monotonic() + min(timeout, HELLO_SECONDS)
        self.hello = self.ask("hello", {"seed": list(seed)})
        self._end = time.monotonic() + timeout
        if self.hello.get("protocol") != PROTOCOL:
            found = plain(str(self.hello.get("protocol"))[:20])
            message = f"{talk.label}: a runner of protocol {found}, this edgekd speaks {PROTOCOL}"
            raise UserError(message, hint="build or install the runner of this edgekd there")
        machine = self.hello.get("machine", {})
        if not isinstance(machine, dict) or not all(
            _is_texts(listed) for listed in (self.hello.get("backends", []), machine.get("isa") or [])
        ):
            raise self._garbage(self.hello)

    def ask(
        self, do: str, arguments: Mapping[str, Any], on_block: Callable[[Timed], None] | None = None
    ) -> dict[str, Any]:
        """The answer to one request. Raises what the runner says is wrong, as UserError or LinkError, and LinkError."""
        self._talk.send({"do": do, **arguments})
        while True:
            message = self._talk.receive(max(self._end - time.monotonic(), 0.0))
            kind, value = next(iter(message.items()), ("", None))
            if kind == "done" and isinstance(value, dict):
                return value
            if kind == "error" and isinstance(value, dict):
                self._refused(value)
            if kind != "block" or on_block is None:
                raise self._garbage(message)
            on_block(self._timed(value))

    def busy(self, seconds: float) -> tuple[float, list[float]]:
        """Share of the device in use during so many seconds, 0 to 1: all of it, and by CPU."""
        return self._read(
            "busy", {"seconds": seconds}, lambda a: (number(a["share"]), [number(one) for one in a["per_cpu"]])
        )

    def pin(self, threads: int, used: Sequence[float]) -> tuple[int, ...]:
        """The CPUs that the runner runs on from now; none where the device does not pin."""
        asked = {"threads": threads, "used": list(used)}
        return self._read("pin", asked, lambda a: tuple(int(number(one)) for one in a["cores"]))

    def open(self, name: str, place: Mapping[str, str], index: int = 0) -> Opened:
        """Open an engine; `place` names its bundle and its inputs in the work folder."""

        def read(answer: Mapping[str, Any]) -> Opened:
            seconds, base, peak, step = (number(answer[key]) for key in ("seconds", "base", "peak", "step"))
            return Opened(ColdStart(seconds, int(base), int(peak)), step)

        return self._read("open", {"name": name, "index": index, **place}, read)

    def run(self, name: str, inputs: str, outputs: str) -> None:
        """Outputs of an opened engine for each sample of a file, into another."""
        self.ask("run", {"name": name, "inputs": inputs, "outputs": outputs})

    def count(self, name: str, calls: int) -> tuple[float | None, str]:
        """Instructions of one of so many calls of an opened engine, by the processor's counters; or None, and why."""

        def read(answer: Mapping[str, Any]) -> tuple[float | None, str]:
            found = answer["instructions"]
            return None if found is None else number(found), plain(str(answer["why"])[:200])

        return self._read("count", {"name": name, "calls": calls}, read)

    def profile(self, place: Mapping[str, str], calls: int) -> list[dict[str, Any]] | None:
        """The rows of `Backend.profile` for a bundle; None where the runner has no profiler for it."""

        def read(answer: Mapping[str, Any]) -> list[dict[str, Any]] | None:
            rows = answer["operators"]
            return rows if rows is None else [
                {"operator": plain(str(r["operator"])[:200]), "nodes": number(r["nodes"]), "seconds": number(r["seconds"])}
                for r in rows
            ]  # fmt: skip

        return self._read("profile", {**place, "calls": calls}, read)

    def time(self, blocks: Sequence[tuple[str, int, int]], lead: int, on_block: Callable[[Timed], None]) -> float:
        """Time blocks (engine, samples, calls a sample); the share of the device that others used meanwhile, 0 to 1."""
        seen = 0

        def checked(timed: Timed) -> None:
            nonlocal seen
            if seen == len(blocks) or timed.index != seen or len(timed.nanoseconds) != blocks[seen][1]:
                message = (
                    f"{self._talk.label}: garbage from the device: block {timed.index} after {seen} of {len(blocks)}"
                )
                raise LinkError(message, reason="garbage")
            seen += 1
            on_block(timed)

        answer = self.ask("time", {"blocks": [list(block) for block in blocks], "lead": lead}, checked)
        if seen != len(blocks):
            raise LinkError(f"{self._talk.label}: {seen} of {len(blocks)} blocks were answered", reason="garbage")
        return self._checked(answer, lambda a: number(a["others"]))

    def block(self, name: str) -> Block:
        """One block after the other of an engine, as warming up wants them. Raises ClockError as `clock.time_block`."""

        def once(samples: int, repeat: int) -> list[float]:
            for _ in range(RETRIES + 1):
                found: list[Timed] = []
                self.time([(name, samples, repeat)], 0, found.append)
                if min(found[0].nanoseconds) >= 0:
                    return [taken / (1e9 * repeat) for taken in found[0].nanoseconds]
            raise backwards(self._talk.label)

        return once

    def _read(self, do: str, arguments: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
        return self._checked(self.ask(do, arguments), read)

    def _checked(self, answer: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError):
            raise self._garbage(answer) from None

    def _garbage(self, value: Any) -> LinkError:
        return LinkError(f"{self._talk.label}: garbage from the device: {plain(str(value)[:80])}", reason="garbage")

    def _refused(self, error: Mapping[str, Any]) -> None:
        said, hint = (plain(str(error.get(key) or "")[:MOST_WORDS]) for key in ("message", "hint"))
        if error.get("kind") == "user":
            raise UserError(f"{self._talk.label}: {said}", hint=hint)
        raise LinkError(f"{self._talk.label}: {said}", reason="failed", hint=hint)

    def _timed(self, value: Any) -> Timed:
        try:
            taken, around = value["ns"], value["conditions"]
            whole = all(type(one) is int and abs(one) < 2**63 for one in (value["index"], *taken))
            told = [_conditions(one) for one in around]
            joules = None if value.get("joules") is None else number(value["joules"])
            if whole and taken and len(told) == 2:
                return Timed(value["index"], taken, told, joules)
        except (KeyError, TypeError, ValueError):
            pass
        raise self._garbage(value)


def number(value: Any) -> float:
    """A finite number. Raises ValueError for anything else: text, truth, NaN and infinity, which JSON's readers let in."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise ValueError(f"{str(value)[:40]} is no number")
    return float(value)


def _conditions(said: Mapping[str, Any]) -> dict[str, Any]:
    celsius = None if said["celsius"] is None else number(said["celsius"])
    return {
        "celsius": celsius,
        "mhz": [round(number(one)) for one in said["mhz"]],
        "governor": plain(str(said["governor"])[:60]),
    }


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def backwards(label: str) -> ClockError:
    """The device's clock cannot be believed."""
    message = f"{label}: its clock went backwards in {RETRIES + 1} blocks in a row"
    return ClockError(message, hint="is the device's clock source unstable?")
