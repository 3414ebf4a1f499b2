"""What an assembly of blocks may take, as a recipe writes it, and the plan that keeps it, told before it is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from edgekd.blocks.programme import Plan, Programme, Resource, UnreachableError
from edgekd.errors import UserError
from edgekd.pruning.budget import SPARED, PruneBudget, limits_told, shown

if TYPE_CHECKING:
    from edgekd.latency.table import Kind, Measured
    from edgekd.progress import Progress


@dataclass(frozen=True)
class BlockBudget(PruneBudget):
    """`latency`: "1.2 ms", or "0.5x" of what the whole student's fastest engine takes. And, of that engine, `size`: "200 kB" of its
    files; `memory`: "60 MB", the most that a new process held up to its first result, the runtime included; or a share of the
    whole student's least, "0.9x". One engine has to keep all of them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    latency: str  # never left out: a block is exchanged for its time


@dataclass(frozen=True)
class Timed:
    """What one kind of engine of a student takes: its latency, with its share of the whole student's and, where it was measured, the
    memory of a process, and the bytes of its files.
    """

    latency: Measured
    size: int

    def of(self, quantity: str) -> float:
        """Seconds, or bytes; infinite where it was not measured."""
        bytes_ = self.size if quantity == "size" else self.latency.memory
        return self.latency.seconds if quantity == "latency" else math.inf if bytes_ is None else float(bytes_)


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
    wholes = wholes_of(whole, budget)
    most = {quantity: budget.allowed(quantity, one) for quantity, one in wholes.items()}
    if most["latency"] >= wholes["latency"]:
        message = f"the whole student takes {shown('latency', wholes['latency'])}"
        hint = 'a lower one, as "0.5x"; or leave the stage out'
        raise UserError(f"puzzle: {message}: a budget of {budget.latency} asks for nothing", hint=hint)
    resources = {
        kind.name: {
            quantity: Resource(
                one.of(quantity),
                tuple(
                    (0.0, *(a.timed[kind].of(quantity) - one.of(quantity) if a.bought(kind) else math.inf for a in of))
                    for of in blocks
                ),
                limit,
            )
            for quantity, limit in most.items()
        }
        for kind, one in whole.items()
    }
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
    return Programme(losses, resources), why


def wholes_of(whole: Mapping[Kind, Timed], budget: BlockBudget) -> dict[str, float]:
    """What the whole student takes of each quantity that is limited: the least of its engines. Raises UserError for what no engine
    tells.
    """
    found = {quantity: min(one.of(quantity) for one in whole.values()) for quantity in budget.given}
    if silent := next((quantity for quantity, value in found.items() if not math.isfinite(value)), ""):
        raise UserError(f"puzzle: budget.{silent}: it was not measured", hint="name another backend")
    return found


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
    wholes = wholes_of(whole, budget)
    most = {quantity: budget.allowed(quantity, one) for quantity, one in wholes.items()}

    def tell(plan: Plan) -> None:
        progress.say(f"  puzzle: plan for {budget.latency} ({shown('latency', most['latency'])}):")
        for name, of, index in zip(names, blocks, plan, strict=True):
            said = f"{of[index - 1].name}, KL {of[index - 1].loss:.4f}" if index else "as it is"
            progress.say(f"    {name:<28} {said}")
        progress.say(f"    predicted {shown('latency', found.seconds(plan))}")

    def taken(plan: Plan) -> dict[str, dict[str, float]]:
        relative = budget.relative("latency")
        rows = {}
        for kind, one in measure(plan).items():
            rows[kind.name] = {quantity: one.of(quantity) for quantity in ("latency", "size", *most)}
            if relative:
                rows[kind.name]["latency"] = one.latency.share * whole[kind].latency.seconds
        return rows

    try:
        best, tried = found.meet(taken, tell)
    except UnreachableError as error:
        name = error.quantity
        others = " and ".join(f"{other} {text}" for other, text in budget.given.items() if other != name)
        asked = f"budget.{name} {budget.given[name]}" + (f" beside {others}" if others else "")
        least = f"{shown(name, error.least)} ({error.least / wholes[name]:.2f}x), where the metric is {score_at(error.plan):.4g}"
        message = f"puzzle: {asked} cannot be met: the least {name} to be reached is {least} before distillation"
        hint = SPARED["memory"] if name == "memory" else "or choose a smaller student"
        raise UserError(message, hint=f"allow more, {hint}") from None
    for one in tried:
        both = "; ".join(
            f"{name}: predicted {shown(name, value)}, measured {shown(name, one.measured[name])}"
            for name, value in one.predicted.items()
        )
        progress.say(f"  puzzle: {both}; {shown('size', one.measured['size'])}, sum of KL {one.loss:.4f}")
    facts = {
        "budget": ", ".join(
            [budget.latency, *(f"{name} {text}" for name, text in budget.given.items() if name != "latency")]
        ),
        "allowed": most["latency"],
        "whole": wholes["latency"],
        "predicted": best.predicted["latency"],
        "measured": best.measured["latency"],
        "size": best.measured["size"],
        "limits": limits_told(budget.given, most, wholes, best.predicted, best.measured),
        "loss": best.loss,
        "tried": [one.to_json() for one in tried],
        "kinds": [kind.name for kind in whole],
        "left_out": why,
    }
    return best.plan, facts
