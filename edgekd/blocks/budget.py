"""What an assembly of blocks may take, as a recipe writes it, and the plan that keeps it, told before it is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from edgekd.blocks.programme import Plan, Programme, Resource, UnreachableError
from edgekd.errors import UserError
from edgekd.pruning.budget import allowed_seconds
from edgekd.units import format_bytes, format_seconds, parse_bytes

if TYPE_CHECKING:
    from edgekd.latency.table import Kind, Measured
    from edgekd.progress import Progress


@dataclass(frozen=True)
class BlockBudget:
    """`latency`: "0.5x", of what the whole student's fastest engine takes, or "1.2 ms"; `size`: "200 kB", of that engine."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    latency: str
    size: str | None = None

    def __post_init__(self) -> None:
        self.seconds(1.0)
        try:
            self.bytes()
        except ValueError as error:
            raise UserError(f"budget.size: {error}", hint='size = "200 kB"') from None

    def seconds(self, whole: float) -> float:
        """Seconds that are allowed, where the whole student takes `whole`. Raises UserError for what is no such budget."""
        return allowed_seconds(self.latency, whole, below=1.0)

    def bytes(self) -> float:
        """Bytes that are allowed; infinite where they are not limited. Raises ValueError for another form."""
        return math.inf if self.size is None else parse_bytes(self.size)


@dataclass(frozen=True)
class Timed:
    """What one kind of engine of a student takes: its latency, with its share of the whole student's, and its bytes."""

    latency: Measured
    size: int


@dataclass(frozen=True)
class Option:
    """An alternative as the programme sees it. `loss` in nats; `timed` by kind of engine, none where it could not be made.

    `failed`: why it could not be trained or compiled.
    """

    name: str
    loss: float
    timed: Mapping[Kind, Timed]
    failed: str = ""

    def bought(self, kind: Kind) -> bool:
        """Whether it buys measured time: the interval of its share of the whole lies below 1."""
        return kind in self.timed and self.timed[kind].latency.high < 1.0


def programme(
    blocks: Sequence[Sequence[Option]], whole: Mapping[Kind, Timed], budget: BlockBudget
) -> tuple[Programme, list[list[str]]]:
    """The programme of the options of each block, and what is said of each where it was left out of it.

    Raises UserError for a budget that asks for nothing, and where no option of any block buys time.
    """
    fastest = min(one.latency.seconds for one in whole.values())
    allowed = budget.seconds(fastest)
    if allowed >= fastest:
        message = f"the whole student takes {format_seconds(fastest)}: a budget of {budget.latency} asks for nothing"
        raise UserError(f"puzzle: {message}", hint='a lower one, as "0.5x"; or leave the stage out')
    latency, size = {}, {}
    for kind, one in whole.items():
        seconds = tuple(
            (0.0, *(a.timed[kind].latency.seconds - one.latency.seconds if a.bought(kind) else math.inf for a in of))
            for of in blocks
        )
        latency[kind.name] = Resource(one.latency.seconds, seconds)
        saved = tuple(
            (0.0, *(float(a.timed[kind].size - one.size) if kind in a.timed else math.inf for a in of)) for of in blocks
        )
        if math.isfinite(budget.bytes()):
            size[kind.name] = Resource(one.size, saved, budget.bytes())
    losses = tuple((0.0, *(a.loss for a in of)) for of in blocks)
    why = [[_left_out(a, whole) for a in of] for of in blocks]
    if all(reason for of in why for reason in of):
        said = "; ".join(
            f"{a.name}: {reason}"
            for of, reasons in zip(blocks, why, strict=True)
            for a, reason in zip(of, reasons, strict=True)
        )
        raise UserError(
            f"puzzle: no alternative to any block buys measured time: {said[:300]}", hint="leave the stage out"
        )
    return Programme(losses, latency, size, allowed), why


def _left_out(one: Option, whole: Mapping[Kind, Timed]) -> str:
    """Why an option cannot be chosen; empty where it can."""
    if one.failed:
        return one.failed
    if any(one.bought(kind) for kind in whole):
        return ""
    best = min((one.timed[kind].latency for kind in whole if kind in one.timed), key=lambda m: m.share)
    return f"it buys no measured time: {best.share:.3f} ({best.low:.3f} to {best.high:.3f}) of the whole"


def planned(
    names: Sequence[str],
    blocks: Sequence[Sequence[Option]],
    whole: Mapping[Kind, Timed],
    budget: BlockBudget,
    measure: Callable[[Plan], Mapping[Kind, Timed]],
    score_at: Callable[[Plan], float],
    progress: Progress,
) -> tuple[Plan, dict[str, Any]]:
    """(the number of each block's alternative, 0 for the block itself; what was predicted and measured).

    `names`: of the blocks; `score_at(plan)`: the validation metric of the student so assembled. Raises UserError, with the least
    latency that can be reached and the metric there, where the budget cannot be met.
    """
    found, why = programme(blocks, whole, budget)
    fastest = min(one.latency.seconds for one in whole.values())

    def tell(plan: Plan) -> None:
        progress.say(f"  puzzle: plan for {budget.latency} ({format_seconds(found.allowed)}):")
        for name, of, index in zip(names, blocks, plan, strict=True):
            said = f"{of[index - 1].name}, KL {of[index - 1].loss:.4f}" if index else "as it is"
            progress.say(f"    {name:<28} {said}")
        progress.say(f"    predicted {format_seconds(found.predicted(plan))}")

    def timed(plan: Plan) -> tuple[float, int]:
        kinds = measure(plan)
        kind = min(kinds, key=lambda one: kinds[one].latency.share * whole[one].latency.seconds)
        one = kinds[kind]
        relative = budget.latency.strip().endswith("x")
        return one.latency.share * whole[kind].latency.seconds if relative else one.latency.seconds, one.size

    try:
        best, tried = found.meet(timed, tell)
    except UnreachableError as error:
        least = f"{format_seconds(error.seconds)} ({error.seconds / fastest:.2f}x), where the metric is {score_at(error.plan):.4g}"
        asked = f"budget.latency {budget.latency}" + (f" within {format_bytes(budget.bytes())}" if budget.size else "")
        message = f"puzzle: {asked} cannot be met: the least latency to be reached is {least} before distillation"
        raise UserError(message, hint="allow more, or choose a smaller student") from None
    for one in tried:
        both = f"predicted {format_seconds(one.predicted)}, measured {format_seconds(one.measured)}"
        progress.say(f"  puzzle: {both}, {format_bytes(one.size)}, sum of KL {one.loss:.4f}")
    facts = {
        "budget": budget.latency,
        "allowed": found.allowed,
        "whole": fastest,
        "predicted": best.predicted,
        "measured": best.measured,
        "size": best.size,
        "loss": best.loss,
        "tried": [one.to_json() for one in tried],
        "kinds": [kind.name for kind in whole],
        "left_out": why,
    }
    return best.plan, facts
