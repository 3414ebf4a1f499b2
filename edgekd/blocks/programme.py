"""One alternative for each block, chosen together: the least loss that the budget allows, by an integer programme.

    minimise  Σ_b Σ_a loss_ba x_ba    subject to  fixed + Σ_b Σ_a cost_ba x_ba ≤ limit  for each resource,  Σ_a x_ba = 1,  x binary

The loss of an alternative was measured with it alone in its block's place, and so was its cost, as a compiled engine: latency, and
bytes of its files or of the process that runs it.
That both add up is the assumption of the method (Bercovich et al. 2024, Puzzle, arXiv 2411.19146, its mixed-integer programme);
what comes of it is compiled and measured, and the programme is corrected by what that shows. Solved by HiGHS (Huangfu, Hall
2018, doi 10.1007/s12532-017-0130-5) to proven optimality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from edgekd.errors import EdgekdError
from edgekd.pruning.allocation import OFF, TOLERANCE, TRIES

RESOLUTION = 1e6
"""The largest loss in units of the objective: HiGHS takes two plans for equal within 10⁻⁶."""
LEAST = 0.01
"""Share of the whole latency below which none is predicted: what several blocks save was measured one by one."""

Plan = tuple[int, ...]
"""For each block the number of its alternative; 0 is the block itself."""


class UnreachableError(EdgekdError):
    """No plan keeps the limit on `quantity`, beside the others. `least` of it is what the plan `plan` takes."""

    def __init__(self, quantity: str, least: float, plan: Plan) -> None:
        super().__init__(f"the least {quantity} that can be reached is {least:g}")
        self.quantity, self.least, self.plan = quantity, least, plan


@dataclass(frozen=True)
class Resource:
    """What is limited: so much that stays, and what each alternative of each block adds; infinite: it is not to be had."""

    fixed: float
    costs: tuple[tuple[float, ...], ...]
    limit: float = math.inf

    def of(self, plan: Plan) -> float:
        """What a plan takes."""
        return self.fixed + sum(costs[index] for costs, index in zip(self.costs, plan, strict=True))

    def least(self) -> Plan:
        """The plan that takes least."""
        return tuple(min(range(len(costs)), key=costs.__getitem__) for costs in self.costs)


def choose(losses: Sequence[Sequence[float]], resources: Sequence[Resource]) -> Plan | None:
    """The plan of least loss within all limits; None where there is none. Of equal losses, one that changes fewer blocks.

    >>> saved = Resource(10.0, ((0.0, -4.0), (0.0, -3.0, -5.0)), limit=5.0)
    >>> choose([[0.0, 0.3], [0.0, 0.2, 0.1]], [saved])
    (0, 2)
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    starts = np.cumsum([0, *map(len, losses)])
    size = int(starts[-1])
    scale = RESOLUTION / (max((loss for of in losses for loss in of), default=0.0) or 1.0)
    objective = np.array([scale * loss + (index > 0) for of in losses for index, loss in enumerate(of)])
    upper = np.ones(size)
    one = np.zeros((len(losses), size))
    for block, (begin, end) in enumerate(pairwise(starts)):
        one[block, begin:end] = 1.0
    constraints = [LinearConstraint(one, 1, 1)]
    for resource in resources:
        flat = np.array([cost for costs in resource.costs for cost in costs])
        upper[~np.isfinite(flat)] = 0.0
        if math.isinf(resource.limit):
            continue
        unit = abs(resource.limit) or 1.0
        line = np.where(np.isfinite(flat), flat, 0.0)[None] / unit
        constraints.append(LinearConstraint(line, -np.inf, (resource.limit - resource.fixed) / unit + 1e-9))
    found = milp(
        objective,
        constraints=constraints,
        integrality=np.ones(size),
        bounds=Bounds(0, upper),
        options={"mip_rel_gap": 0},
    )
    if found.status == 2:
        return None
    if found.x is None:
        raise EdgekdError(f"the integer programme was not solved: {found.message}")
    return tuple(int(np.argmax(found.x[begin:end])) for begin, end in pairwise(starts))


@dataclass(frozen=True)
class Attempt:
    """A plan that was compiled: by quantity as predicted and as measured, of the kind of engine that keeps the limits best.

    `over`: the worst of what was measured, as a share of what is accepted; `loss` as the programme has it.
    """

    plan: Plan
    kind: str
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    over: float
    loss: float

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True, eq=False)
class Programme:
    """`resources` of each kind of engine by quantity: "latency" in seconds, "size" and "memory" in bytes where these are limited;
    one kind has to keep all. `losses` [block][alternative], in nats.
    """

    losses: tuple[tuple[float, ...], ...]
    resources: Mapping[str, Mapping[str, Resource]]

    def loss(self, plan: Plan) -> float:
        return sum(losses[index] for losses, index in zip(self.losses, plan, strict=True))

    def predicted(self, plan: Plan, kind: str, quantity: str) -> float:
        """What an engine of this kind is predicted to take."""
        one = self.resources[kind][quantity]
        return max(one.of(plan), LEAST * one.fixed)

    def seconds(self, plan: Plan) -> float:
        """Seconds of the plan's fastest engine, as predicted."""
        return min(self.predicted(plan, kind, "latency") for kind in self.resources)

    def meet(
        self, measure: Callable[[Plan], Mapping[str, Mapping[str, float]]], tell: Callable[[Plan], None]
    ) -> tuple[Attempt, list[Attempt]]:
        """The best plan that was measured to keep the limits, and all that were tried. `measure` gives what each kind takes.

        `tell(plan)` is called before a plan is measured. Where one misses a prediction by more than 5%, predictions of that kind are
        corrected by that factor and the programme is solved again, at most three times. Raises UnreachableError where no plan
        keeps the limits, or was measured to.
        """
        tried: list[Attempt] = []
        factors = {kind: dict.fromkeys(of, 1.0) for kind, of in self.resources.items()}

        def attempt(plan: Plan) -> Attempt:
            tell(plan)
            made = []
            for kind, taken in measure(plan).items():
                predicted = {quantity: self.predicted(plan, kind, quantity) for quantity in self.resources[kind]}
                if not all(map(math.isfinite, predicted.values())):
                    continue  # it has an alternative that buys this kind no time
                factors[kind] = {quantity: taken[quantity] / one for quantity, one in predicted.items()}
                over = max(self._over(kind, quantity, taken[quantity]) for quantity in predicted)
                made.append(Attempt(plan, kind, predicted, taken, over, self.loss(plan)))
            if not made:
                raise EdgekdError(f"the plan {plan} could not be measured as any kind that it was made for")
            tried.append(min(made, key=lambda one: one.over))
            return tried[-1]

        while len(tried) < TRIES:
            plans = [plan for kind in self.resources if (plan := self._solved(kind, factors[kind])) is not None]
            fresh = [plan for plan in plans if plan not in [one.plan for one in tried]]
            if not fresh:
                break
            now = attempt(min(fresh, key=self.loss))
            if self._kept(now) and all(abs(factor - 1) <= OFF for factor in factors[now.kind].values()):
                break
        if not any(map(self._kept, tried)):
            kind, quantity, least = self._tightest()
            if tried and least not in [one.plan for one in tried]:
                attempt(least)
            if not any(map(self._kept, tried)):
                if not tried:
                    raise UnreachableError(quantity, self.predicted(least, kind, quantity), least)
                nearest = min(tried, key=lambda one: one.over)
                own = self.resources[nearest.kind]
                worst = max(own, key=lambda q: self._over(nearest.kind, q, nearest.measured[q]))
                raise UnreachableError(worst, nearest.measured[worst], nearest.plan)
        return min(filter(self._kept, tried), key=lambda one: one.loss), tried

    def _solved(self, kind: str, factors: Mapping[str, float]) -> Plan | None:
        limits = [
            Resource(one.fixed, one.costs, one.limit / factors[name]) for name, one in self.resources[kind].items()
        ]
        return choose(self.losses, limits)

    def _over(self, kind: str, quantity: str, value: float) -> float:
        return value / (self.resources[kind][quantity].limit * (1 + TOLERANCE[quantity]))

    def _tightest(self) -> tuple[str, str, Plan]:
        """Of the kind that comes nearest to its limits, the quantity that is furthest from its own, and the plan that takes least."""

        def over(kind: str, quantity: str) -> float:
            return self._over(kind, quantity, self.predicted(self.resources[kind][quantity].least(), kind, quantity))

        worst = {kind: max(of, key=lambda quantity: over(kind, quantity)) for kind, of in self.resources.items()}
        kind = min(worst, key=lambda kind: over(kind, worst[kind]))
        return kind, worst[kind], self.resources[kind][worst[kind]].least()

    def _kept(self, one: Attempt) -> bool:
        faster = one.measured["latency"] < min(of["latency"].fixed for of in self.resources.values())
        return faster and one.over <= 1
