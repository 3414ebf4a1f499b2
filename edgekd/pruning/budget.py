"""Pruning under a budget: latency, size and memory as a recipe writes them, and the widths that keep them, planned, then measured."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from edgekd.errors import UserError
from edgekd.units import format_bytes, format_seconds, parse_bytes, parse_seconds

if TYPE_CHECKING:
    import torch

    from edgekd.latency.design import Widths
    from edgekd.latency.table import Measured, Pricing
    from edgekd.progress import Progress
    from edgekd.pruning.allocation import Attempt, Choose, Limit

Allocation = Literal["latency", "macs", "uniform"]

EXAMPLES = {"latency": "1.2 ms", "size": "200 kB", "memory": "60 MB"}
SPARED = {
    "latency": "lower the target's channel_multiple, or choose a smaller student",
    "size": "lower the target's channel_multiple, or choose a smaller student",
    "memory": "name another backend (a runtime's own memory cannot be pruned), or choose a smaller student",
}


@dataclass(frozen=True)
class PruneBudget:
    """What the pruned student's engine may take, at least one of three; each as it is, or as a share of the whole student's.

    `latency`: "1.2 ms", the median, or "0.5x", of what the fastest engine takes. `size`: "200 kB", of the engine's files, or
    "0.5x", of the smallest engine's. `memory`: "60 MB", the most that a new process held up to its first result, the runtime
    included, or "0.9x", of the least that an engine's held. One engine has to keep all of them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    latency: str | None = None
    size: str | None = None
    memory: str | None = None

    def __post_init__(self) -> None:
        if not self.given:
            raise UserError(f"budget: none of {', '.join(EXAMPLES)} is given", hint='budget = { latency = "0.5x" }')
        for quantity in self.given:
            self.allowed(quantity, 1.0)

    @property
    def given(self) -> dict[str, str]:
        """{"latency": "0.5x"}: what it limits, as it is written."""
        return {quantity: text for quantity in EXAMPLES if (text := getattr(self, quantity)) is not None}

    def relative(self, quantity: str) -> bool:
        return self.given[quantity].strip().endswith("x")

    def allowed(self, quantity: str, whole: float) -> float:
        """Seconds or bytes that are allowed, where the whole student takes `whole`. Raises UserError for what is no such limit.

        >>> PruneBudget("0.5x").allowed("latency", 0.002), PruneBudget(size="3 kB").allowed("size", 9000)
        (0.001, 3000)
        """
        return allowed(quantity, self.given[quantity], whole, below=1.0)


def allowed_seconds(latency: str, whole: float, below: float = math.inf) -> float:
    """Seconds that a latency allows: "1.2 ms" by itself, "0.5x" of `whole`. Raises UserError for another form.

    >>> allowed_seconds("1.5x", 0.002), allowed_seconds("1.2 ms", 0.002)
    (0.003, 0.0012)
    """
    return allowed("latency", latency, whole, below)


def allowed(quantity: str, text: str, whole: float, below: float = math.inf) -> float:
    """What a limit allows: seconds or bytes by themselves, "0.5x" of `whole`. Raises UserError for another form."""
    hint = f'{quantity} = "0.5x" of the whole student\'s, or "{EXAMPLES[quantity]}"'
    if not text.strip().endswith("x"):
        try:
            return parse_seconds(text) if quantity == "latency" else parse_bytes(text)
        except ValueError as error:
            raise UserError(f"budget.{quantity}: {error}", hint=hint) from None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*x\s*", text)
    if not match or not 0 < float(match[1]) < below:
        range_ = 'above "0x"' + (f' and below "{below:g}x"' if below < math.inf else "")
        raise UserError(f'budget.{quantity}: "{text}" is not {range_}', hint=hint)
    return float(match[1]) * whole


def planned(
    pricing: Pricing,
    budget: PruneBudget,
    scores: Mapping[str, torch.Tensor],
    score_at: Callable[[Widths], float],
    progress: Progress,
    allocation: Allocation = "latency",
    macs_at: Callable[[Widths], int] | None = None,
) -> tuple[Widths, dict[str, str], dict[str, Any]]:
    """(widths of every group, {group: why it is left whole}, what was predicted and measured).

    `score_at(widths)` is the validation metric of the student so pruned, `macs_at(widths)` its multiply-accumulates. Raises
    UserError, with the least that can be reached and the metric there, where the budget cannot be met.
    """
    from edgekd.pruning.allocation import Limit, UnreachableError, meet, values_of

    table, kinds = pricing.table, pricing.kinds
    wholes = {quantity: min(table.whole(kind, quantity) for kind in kinds) for quantity in budget.given}
    most = {quantity: budget.allowed(quantity, whole) for quantity, whole in wholes.items()}
    if all(most[quantity] >= whole for quantity, whole in wholes.items()):
        takes = " and ".join(shown(quantity, whole) for quantity, whole in wholes.items())
        asked = ", ".join(budget.given.values())
        message = f"prune: the whole student takes {takes}: a budget of {asked} asks for nothing"
        raise UserError(message, hint='a lower one, as "0.5x"; or leave the stage out')
    left: dict[str, str] = {}
    if list(most) == ["latency"] and allocation == "latency":  # else narrowing may buy what time does not tell
        idle = [table.idle(kind) for kind in kinds]
        left = {group: reason for group, reason in idle[0].items() if all(group in of for of in idle)}
    values = values_of(
        table.space, {g: v.tolist() for g, v in scores.items() if g in table.space.widths and g not in left}
    )
    limits = [[Limit(name, table.predictor(kind, name), at_most) for name, at_most in most.items()] for kind in kinds]

    def measure(widths: Widths) -> list[dict[str, float]]:
        found = pricing.measure(widths)
        return [
            {name: _taken(found[kind], name, table.whole(kind) if budget.relative(name) else None) for name in most}
            for kind in kinds
        ]

    try:
        best, tried = meet(limits, values, measure, _choose(allocation, pricing, macs_at))
    except UnreachableError as error:
        name = error.quantity
        least = f"{shown(name, error.least)} ({error.least / wholes[name]:.2f}x)"
        message = f"prune: budget.{name} {budget.given[name]} cannot be met: the least {name} to be reached is {least}"
        hint = f"allow more, {SPARED[name]}"
        raise UserError(
            f"{message}, where the metric is {score_at(error.widths):.4g} before recovery", hint=hint
        ) from None
    for one in tried:
        progress.say(f"  prune: plan {_told(one, budget)}, importance kept {one.retained:.1%}")
    facts: dict[str, Any] = limits_told(budget.given, most, wholes, best.predicted, best.measured)
    for name, told in facts.items():
        told["table"] = {kind.name: _of(name, held).predictor.said() for kind, held in zip(kinds, limits, strict=True)}
    facts["plan"] = {
        "allocation": allocation,
        "engine": kinds[best.kind].name,
        "kinds": [kind.name for kind in kinds],
        "retained": best.retained,
        "tried": [one.to_json() for one in tried],
    }
    return best.widths, left, facts


def _choose(allocation: Allocation, pricing: Pricing, macs_at: Callable[[Widths], int] | None) -> Choose:
    from edgekd.latency.predictor import fit
    from edgekd.pruning.allocation import allocate, by_macs, uniform

    if allocation == "macs":
        assert macs_at is not None
        table = pricing.table
        return by_macs(fit(table.space, table.plans, [macs_at(plan) for plan in table.plans]))
    return uniform if allocation == "uniform" else allocate


def _taken(measured: Measured, quantity: str, whole: float | None) -> float:
    """What an engine was measured to take; a latency that is told relative to the whole student's, by its share of that."""
    from edgekd.latency.table import FIELDS

    if quantity == "latency" and whole is not None:
        return measured.share * whole
    return float(getattr(measured, FIELDS[quantity]))


def _of(quantity: str, limits: list[Limit]) -> Limit:
    return next(limit for limit in limits if limit.quantity == quantity)


def limits_told(
    given: Mapping[str, str],
    most: Mapping[str, float],
    wholes: Mapping[str, float],
    predicted: Mapping[str, float],
    measured: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    """For each quantity: what the recipe asked, seconds or bytes that this allows and that the whole student takes, and what the
    plan was predicted and measured to take.
    """
    return {
        name: {
            "budget": given[name],
            "allowed": most[name],
            "whole": wholes[name],
            "predicted": predicted[name],
            "measured": measured[name],
        }
        for name in most
    }


def shown(quantity: str, value: float) -> str:
    return format_seconds(value) if quantity == "latency" else format_bytes(value)


def _told(one: Attempt, budget: PruneBudget) -> str:
    return "; ".join(
        f"for {name} {text}: predicted {shown(name, one.predicted[name])}, measured {shown(name, one.measured[name])}"
        for name, text in budget.given.items()
    )
