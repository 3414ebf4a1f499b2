"""Gates held to a latency: engines of the student tell what an encoder costs, then what the gates left is measured and settled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekd.errors import EdgekdError, UserError
from edgekd.pruning.allocation import OFF, TOLERANCE, TRIES
from edgekd.pruning.budget import SPARED, PruneBudget
from edgekd.pruning.groups import cut
from edgekd.pruning.price import Plan, Price, Terms, design
from edgekd.units import format_seconds

if TYPE_CHECKING:
    from edgekd.blocks.budget import Timed
    from edgekd.latency.table import Kind
    from edgekd.pruning.branches import Branch
    from edgekd.pruning.gates import Gates
    from edgekd.pruning.groups import Group
    from edgekd.student import Edit

Race = Callable[[Sequence[Sequence["Edit"]], str], tuple[list[dict["Kind", "Timed"]], dict[int, str]]]
"""`Context.race`."""

FURTHEST = 60.0  # a shift of log α by which every gate stays, or none
HALVINGS = 40
MOST = 0.98  # of what the whole student takes: what is predicted above buys nothing, whatever it happens to measure


@dataclass(frozen=True)
class Attempt:
    """A plan that was compiled: seconds as predicted and as measured, of the kind of engine that took least."""

    shift: float
    plan: Plan
    predicted: float
    measured: float
    kind: str

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "plan": self.plan.to_json()}


class Held:
    """The latency that gates are trained towards (`price`, `share` of the whole), and what then makes it true (`settle`).

    The engines of `design` are raced once, before any training. Raises UserError for a budget that asks for nothing, or that the
    least of them does not keep, with `score_at(edit)`, the validation metric of what the edit leaves.
    """

    def __init__(
        self,
        budget: PruneBudget,
        groups: Sequence[Group],
        branches: Sequence[Branch],
        steps: Mapping[str, int],
        opened: Sequence[str],
        race: Race,
        score_at: Callable[[Edit], float],
        say: Callable[[str], None],
    ) -> None:
        self._groups, self._branches, self._opened, self._race, self._say = groups, branches, opened, race, say
        self._budget, terms = budget, Terms(groups, branches)
        plans = design(terms, steps)
        rows, failed = race([[], *([self.edit(plan)] for plan in plans[1:])], f"prune: {len(plans)} encoders")
        for reason in failed.values():
            say(f"  prune: an encoder of {len(plans)} is not measured: {reason}")
        self._wholes = {kind: timed.latency.seconds for kind, timed in rows[0].items()}
        taken = {kind: [self._taken(row, kind) for row in rows] for kind in self._wholes}
        self.price = Price(terms, plans, {kind.name: seconds for kind, seconds in taken.items()})
        self.allowed = budget.allowed("latency", self.price.whole)
        self.share = self.allowed / self.price.whole
        if self.share >= 1:
            message = f"prune: the whole student takes {format_seconds(self.price.whole)}"
            hint = 'a lower one, as "0.5x"; or leave the stage out'
            raise UserError(f"{message}: a budget of {budget.latency} asks for nothing", hint=hint)
        least = min(seconds[-1] for seconds in taken.values())
        if not least <= self.allowed:
            raise self._unreachable(plans[-1], least, score_at)

    def edit(self, plan: Plan) -> Edit:
        """What narrows the student to a plan: the first channels, since time does not ask which."""
        opened = {"opened": list(self._opened)} if self._opened else {}
        return {"edit": "prune", **opened, **cut(self._groups, plan.keep(self._groups), self._removed(plan))}

    def settle(self, gates: Gates) -> dict[str, Any]:
        """Shift the gates until what they leave was measured to keep the latency; returns what was predicted and measured.

        As many stay as are predicted to keep it, in the order that they learned; where the measurement misses that by more than
        5%, predictions are corrected by that factor, at most three times. Raises EdgekdError where nothing measured keeps it.
        """
        tried: list[Attempt] = []
        factor = 1.0
        while len(tried) < TRIES:
            shift = self._shift(gates, self.allowed / factor)
            if self._plan(gates, shift) in [one.plan for one in tried]:
                break
            now = self._measured(gates, shift)
            tried.append(now)
            factor = now.measured / now.predicted
            if self._kept(now) and abs(factor - 1) <= OFF:
                break
        if not any(map(self._kept, tried)):
            tried.append(self._measured(gates, -FURTHEST))
        kept = [one for one in tried if self._kept(one)]
        if not kept:
            nearest = min(tried, key=lambda one: one.measured)
            message = f"prune: budget.latency {self._budget.latency}: the least that was measured is {format_seconds(nearest.measured)}"
            raise EdgekdError(message, hint=f"allow more, {SPARED['latency']}")
        best = max(kept, key=lambda one: one.shift)
        gates.shift = best.shift
        table = {kind: {"error": {"median": e[0], "largest": e[1]}} for kind, e in self.price.error.items()}
        latency = {
            "budget": self._budget.latency,
            "allowed": self.allowed,
            "whole": self.price.whole,
            "predicted": best.predicted,
            "measured": best.measured,
            "table": table,
        }
        told = {"engine": best.kind, "kinds": [kind.name for kind in self._wholes]}
        return {"latency": latency, "plan": {**told, "tried": [one.to_json() for one in tried]}}

    def _kept(self, one: Attempt) -> bool:
        return one.measured <= self.allowed * (1 + TOLERANCE["latency"])

    def _shift(self, gates: Gates, seconds: float) -> float:
        """The largest shift at which the plan is predicted to take at most `seconds`; the least there is, if none."""
        low, high = -FURTHEST, FURTHEST
        seconds = min(seconds, MOST * self.price.whole)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self.price.of(self._plan(gates, middle)) <= seconds:
                low = middle
            else:
                high = middle
        return low

    def _plan(self, gates: Gates, shift: float) -> Plan:
        before, gates.shift = gates.shift, shift
        widths = {name: len(channels) for name, channels in gates.keep().items()}
        found = Plan(widths, frozenset(branch.name for branch in gates.gone()))
        gates.shift = before
        return found

    def _measured(self, gates: Gates, shift: float) -> Attempt:
        plan = self._plan(gates, shift)
        rows, failed = self._race([[], [self.edit(plan)]], "prune: the plan")
        if not rows[1]:
            raise EdgekdError(f"prune: the plan cannot be compiled: {failed[1]}", hint="another backend")
        kind = min(rows[1], key=lambda one: self._taken(rows[1], one))
        predicted, measured = self.price.of(plan), self._taken(rows[1], kind)
        both = f"predicted {format_seconds(predicted)}, measured {format_seconds(measured)}"
        self._say(f"  prune: plan for latency {self._budget.latency}: {both}")
        return Attempt(shift, plan, predicted, measured, kind.name)

    def _taken(self, row: Mapping[Kind, Timed], kind: Kind) -> float:
        """Seconds; for a budget that is told as a share of the whole student's, by its share of that. Infinite without an engine."""
        if kind not in row:
            return math.inf
        latency = row[kind].latency
        return latency.share * self._wholes[kind] if self._budget.relative("latency") else latency.seconds

    def _removed(self, plan: Plan) -> dict[str, int]:
        gone = [branch for branch in self._branches if branch.name in plan.gone]
        return {part: outputs for branch in gone for part, outputs in branch.removed.items()}

    def _unreachable(self, plan: Plan, least: float, score_at: Callable[[Edit], float]) -> UserError:
        message = f"prune: budget.latency {self._budget.latency} cannot be met: the least latency to be reached is"
        least_said = f"{format_seconds(least)} ({least / self.price.whole:.2f}x)"
        metric = f"where the metric is {score_at(self.edit(plan)):.4g} before recovery"
        return UserError(f"{message} {least_said}, {metric}", hint=f"allow more, {SPARED['latency']}")
