"""Both engines measured now, side by side: fresh processes are added until the verdict is clear or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekd.check.pair import SIMULATED, Side
from edgekd.check.verdict import LEAST, RUNNERS, Look, Rule, look, settled, wanted
from edgekd.errors import EdgekdError, UserError
from edgekd.latency.race import Race, gathered
from edgekd.latency.turn import QUIET, ColdStart, Turn, measure_once, time_limit
from edgekd.progress import Progress
from edgekd.units import format_seconds

if TYPE_CHECKING:
    from edgekd.devices.device import Device

SECONDS = 0.12  # of timed calls an engine and process: more processes tell more than longer ones
BLOCK = 0.005
WAIT = 5.0  # seconds that a busy machine is waited for, once
MAX_SECONDS = 90.0


@dataclass(frozen=True, eq=False)
class Session:
    """What was measured: every look, the whole race with raw samples, cold starts of both engines, seconds that it took.

    `race` is None where no process finished, and `reason` says why; else why it is inconclusive, if it is.
    """

    verdict: Literal["pass", "regressed", "inconclusive"]
    reason: str
    advice: str
    looks: tuple[Look, ...]
    race: Race | None
    cold: dict[str, list[ColdStart]]
    seconds: float

    @property
    def last(self) -> Look | None:
        return self.looks[-1] if self.looks else None

    @property
    def p(self) -> float:
        """The p-value of all looks together: valid whenever one stops."""
        return min((one.p for one in self.looks), default=1.0)


def run(
    candidate: Side,
    baseline: Side,
    rule: Rule,
    *,
    inputs: Path | None,
    max_seconds: float = MAX_SECONDS,
    seed: int = 0,
    plugins: Sequence[str] = (),
    progress: Progress,
    device: Device | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Session:
    """Measure until `rule` is decided or `max_seconds` are over; at least three processes are measured in any case.

    `device`: where, if not here. Raises UserError for an engine that cannot be opened or does not take `inputs` (a .npy
    file). What fails otherwise (a crash, a clock that goes backwards) makes the session inconclusive, with the reason.
    """
    folders = dict(zip(RUNNERS, (baseline.engine, baseline.engine, candidate.engine, candidate.engine), strict=True))
    facts = dict(zip(RUNNERS, (baseline.facts, baseline.facts, candidate.facts, candidate.facts), strict=True))
    cold: dict[str, list[ColdStart]] = {"baseline": [], "candidate": []}
    turns: list[Turn] = []
    looks: list[Look] = []
    started, longest, failure, tell = clock(), 0.0, "", _waiting(progress)
    with progress.task("measure side by side", total=max_seconds) as task:
        while True:
            begun = clock()
            first = ("baseline", "candidate")[len(turns) % 2]
            try:
                turn = measure_once(
                    folders,
                    len(turns),
                    plan=turns[0].plan if turns else None,
                    inputs=[inputs] if inputs else None,
                    seconds=SECONDS,
                    block=BLOCK,
                    threads=candidate.threads,
                    seed=seed,
                    wait=0.0 if turns or candidate.backend == SIMULATED else WAIT,
                    quiet=QUIET,
                    timeout=time_limit(len(folders), SECONDS),
                    plugins=plugins,
                    tell=tell,
                    first=first,
                    device=device,
                )
            except UserError:
                raise
            except EdgekdError as error:
                failure = error.message
                break
            turns.append(turn)
            if turn.cold_start:
                cold[first].append(turn.cold_start)
            now = clock()
            longest = max(longest, now - begun)
            task.advance(now - begun, f"{len(turns)} processes")
            over = now - started + longest > max_seconds and len(turns) >= LEAST
            if len(turns) < wanted(len(looks) + 1) and not over:
                continue
            race = gathered(facts, turns, _cold_of(cold), seed, candidate.threads)
            looks.append(look({name: r.samples for name, r in race.runners.items()}, rule, len(looks) + 1, seed))
            if looks[-1].state != "undecided" or over:
                break
            progress.say(_longer(looks[-1], now - started))
    seconds = clock() - started
    race_or_none = gathered(facts, turns, _cold_of(cold), seed, candidate.threads) if turns else None
    if failure:
        advice = "mend what failed, then check again; nothing was decided"
        return Session("inconclusive", failure, advice, tuple(looks), race_or_none, cold, seconds)
    assert race_or_none is not None
    verdict = settled(looks[-1])
    reason, advice = _why(verdict, looks[-1], race_or_none, max_seconds, simulated=candidate.backend == SIMULATED)
    return Session(verdict, reason, advice, tuple(looks), race_or_none, cold, seconds)


def _cold_of(cold: dict[str, list[ColdStart]]) -> dict[str, list[ColdStart]]:
    return {name: cold.get(name, []) for name in RUNNERS}


def _waiting(progress: Progress) -> Callable[[dict[str, Any]], None]:
    """Says once that the machine is busy."""
    said = False

    def tell(message: dict[str, Any]) -> None:
        nonlocal said
        if "busy" in message and not said:
            said = True
            progress.say(f"  waiting: other processes use {message['busy']:.0%} of the machine")

    return tell


def _longer(last: Look, seconds: float) -> str:
    """Why measuring goes on."""
    if not last.control_fits:
        why = f"the baseline against itself is {span(last.control.low, last.control.high)}, not yet within {last.limit:.3g}×"
    else:
        why = f"{last.ratio.point:.3f}× ({span(last.ratio.low, last.ratio.high)}) does not yet tell from {last.limit:.3g}×"
    return f"  {last.processes} processes, {format_seconds(seconds)}: {why}; measuring longer"


def span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"


def _why(verdict: str, last: Look, race: Race, max_seconds: float, simulated: bool) -> tuple[str, str]:
    """The verdict in words, and what to do about it."""
    found = f"{last.ratio.point:.3f}× the baseline's latency ({span(last.ratio.low, last.ratio.high)})"
    allowed = f"{last.limit:.3g}×"
    if verdict == "regressed":
        return f"{found}: more than the {allowed} allowed", ""
    if verdict == "pass":
        return f"{found}: within the {allowed} allowed", ""
    longer = f"give it more than {format_seconds(max_seconds)} with --max-seconds"
    if last.control_fits:
        return f"{found}: neither clearly above nor below the {allowed} allowed", longer
    others = max((*race.busy, *race.others), default=0.0)
    busy = f"; other processes used up to {others:.0%} of the machine" if others > QUIET and not simulated else ""
    control = f"the baseline against itself measured {span(last.control.low, last.control.high)}"
    reason = f"too noisy to tell {allowed}: {control}{busy}"
    return reason, f"check on a quieter machine, {longer}, or allow more with --tolerance or --floor"
