"""Pruning under a latency: the budget as a recipe writes it, and the widths that keep it, planned and then measured."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from edgekd.errors import UserError
from edgekd.units import format_seconds, parse_seconds

if TYPE_CHECKING:
    import torch

    from edgekd.latency.design import Widths
    from edgekd.latency.table import Kind, Pricing
    from edgekd.progress import Progress


@dataclass(frozen=True)
class LatencyBudget:
    """`latency`: "0.5x", of what the whole student's fastest engine takes, or "1.2 ms", the median."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    latency: str

    def __post_init__(self) -> None:
        self.seconds(1.0)

    @property
    def relative(self) -> bool:
        return self.latency.strip().endswith("x")

    def seconds(self, whole: float) -> float:
        """Seconds that are allowed, where the whole student takes `whole`. Raises UserError for what is no such budget.

        >>> LatencyBudget("0.5x").seconds(0.002), LatencyBudget("1.2 ms").seconds(0.002)
        (0.001, 0.0012)
        """
        return allowed_seconds(self.latency, whole, below=1.0)


def allowed_seconds(latency: str, whole: float, below: float = math.inf) -> float:
    """Seconds that a latency allows: "1.2 ms" by itself, "0.5x" of `whole`. Raises UserError for another form.

    >>> allowed_seconds("1.5x", 0.002), allowed_seconds("1.2 ms", 0.002)
    (0.003, 0.0012)
    """
    hint = 'latency = "0.5x" of the whole student\'s, or "1.2 ms"'
    if not latency.strip().endswith("x"):
        try:
            return parse_seconds(latency)
        except ValueError as error:
            raise UserError(f"budget.latency: {error}", hint=hint) from None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*x\s*", latency)
    if not match or not 0 < float(match[1]) < below:
        range_ = 'above "0x"' + (f' and below "{below:g}x"' if below < math.inf else "")
        raise UserError(f'budget.latency: "{latency}" is not {range_}', hint=hint)
    return float(match[1]) * whole


def planned(
    pricing: Pricing,
    budget: LatencyBudget,
    scores: Mapping[str, torch.Tensor],
    score_at: Callable[[Widths], float],
    progress: Progress,
) -> tuple[Widths, dict[str, str], dict[str, Any]]:
    """(widths of every group, {group: why it is left whole}, what was predicted and measured).

    `score_at(widths)` is the validation metric of the student so pruned. Raises UserError, with the least latency that can be
    reached and the metric there, where the budget cannot be met.
    """
    from edgekd.pruning.allocation import UnreachableError, meet, values_of

    table, kinds = pricing.table, pricing.kinds
    whole = min(table.whole(kind) for kind in kinds)
    allowed = budget.seconds(whole)
    if allowed >= whole:
        message = (
            f"prune: the whole student takes {format_seconds(whole)}: a budget of {budget.latency} asks for nothing"
        )
        raise UserError(message, hint='a lower one, as "0.5x"; or leave the stage out')
    idle = [table.idle(kind) for kind in kinds]
    left = {group: reason for group, reason in idle[0].items() if all(group in of for of in idle)}
    values = values_of(
        table.space, {g: v.tolist() for g, v in scores.items() if g in table.space.widths and g not in left}
    )
    predictors = [table.predictor(kind) for kind in kinds]

    def measure(widths: Widths) -> float:
        found = pricing.measure(widths)
        return min(_seconds(found[kind].seconds, found[kind].share, kind) for kind in kinds)

    def _seconds(seconds: float, share: float, kind: Kind) -> float:
        return share * table.whole(kind) if budget.relative else seconds

    try:
        best, tried = meet(predictors, values, allowed, measure)
    except UnreachableError as error:
        there = f"{format_seconds(error.seconds)} ({error.seconds / whole:.2f}x)"
        least = f"{there}, where the metric is {score_at(error.widths):.4g} before recovery"
        message = f"prune: budget.latency {budget.latency} cannot be met: the least latency to be reached is {least}"
        hint = "allow more, lower the target's channel_multiple, or choose a smaller student"
        raise UserError(message, hint=hint) from None
    for one in tried:
        said = f"predicted {format_seconds(one.predicted)}, measured {format_seconds(one.measured)}"
        progress.say(f"  prune: plan for {budget.latency}: {said}, importance kept {one.retained:.1%}")
    facts = {
        "budget": budget.latency,
        "allowed": allowed,
        "whole": whole,
        "predicted": best.predicted,
        "measured": best.measured,
        "retained": best.retained,
        "tried": [one.to_json() for one in tried],
        "kinds": [kind.name for kind in kinds],
        "table": {kind.name: one.said() for kind, one in zip(kinds, predictors, strict=True)},
    }
    return best.widths, left, facts
