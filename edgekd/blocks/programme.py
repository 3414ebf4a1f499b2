"""One alternative for each block, chosen together: the least loss that the budget allows, by an integer programme.

    minimise  Σ_b Σ_a loss_ba x_ba    subject to  fixed + Σ_b Σ_a cost_ba x_ba ≤ limit  for each resource,  Σ_a x_ba = 1,  x binary

The loss of an alternative was measured with it alone in its block's place, and so was its cost: latency as a compiled engine.
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

TOLERANCE = 0.05
TRIES = 4
RESOLUTION = 1e6
"""The largest loss in units of the objective: HiGHS takes two plans for equal within 10⁻⁶."""
LEAST = 0.01
"""Share of the whole latency below which none is predicted: what several blocks save was measured one by one."""

Plan = tuple[int, ...]
"""For each block the number of its alternative; 0 is the block itself."""


class UnreachableError(EdgekdError):
    """No plan keeps the budget. `seconds` is the least latency, of the plan `plan`."""

    def __init__(self, seconds: float, plan: Plan) -> None:
        super().__init__(f"the least latency that can be reached is {seconds} s")
        self.seconds, self.plan = seconds, plan


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
    """A plan that was compiled: seconds as predicted and as measured, bytes as measured, and its loss as the programme has it."""

    plan: Plan
    predicted: float
    measured: float
    size: int
    loss: float

    def to_json(self) -> dict[str, Any]:
        return vars(self)


@dataclass(frozen=True, eq=False)
class Programme:
    """`latency` of each kind of engine, `size` in bytes where that is limited, and `losses` [block][alternative], in nats."""

    losses: tuple[tuple[float, ...], ...]
    latency: Mapping[str, Resource]
    size: Mapping[str, Resource]
    allowed: float

    def loss(self, plan: Plan) -> float:
        return sum(losses[index] for losses, index in zip(self.losses, plan, strict=True))

    def predicted(self, plan: Plan) -> float:
        """Seconds of the plan's fastest engine."""
        return min(max(one.of(plan), LEAST * one.fixed) for one in self.latency.values())

    def meet(
        self, measure: Callable[[Plan], tuple[float, int]], tell: Callable[[Plan], None]
    ) -> tuple[Attempt, list[Attempt]]:
        """The best plan that was measured to keep the budget, and all that were tried. `measure` gives seconds and bytes.

        `tell(plan)` is called before a plan is measured. Where one misses its prediction by more than 5%, the predictions are
        corrected by that factor and the programme is solved again, at most three times. Raises UnreachableError where no plan
        keeps the budget, or was measured to.
        """
        tried: list[Attempt] = []
        factor = 1.0

        def attempt(plan: Plan) -> Attempt:
            tell(plan)
            seconds, size = measure(plan)
            tried.append(Attempt(plan, self.predicted(plan), seconds, size, self.loss(plan)))
            return tried[-1]

        while len(tried) < TRIES:
            plans = [plan for kind in self.latency if (plan := self._solved(kind, self.allowed / factor)) is not None]
            fresh = [plan for plan in plans if plan not in [one.plan for one in tried]]
            if not fresh:
                break
            now = attempt(min(fresh, key=self.loss))
            factor = now.measured / now.predicted
            if abs(factor - 1) <= TOLERANCE and self._kept(now):
                break
        if not any(map(self._kept, tried)):
            least = min((one.least() for one in self.latency.values()), key=self.predicted)
            if tried and least not in [one.plan for one in tried]:
                attempt(least)
            if not any(map(self._kept, tried)):
                fastest = min(tried, key=lambda one: one.measured, default=None)
                seconds = fastest.measured if fastest else self.predicted(least)
                raise UnreachableError(seconds, fastest.plan if fastest else least)
        return min(filter(self._kept, tried), key=lambda one: one.loss), tried

    def _solved(self, kind: str, seconds: float) -> Plan | None:
        latency = self.latency[kind]
        limits = [Resource(latency.fixed, latency.costs, seconds), *([self.size[kind]] if kind in self.size else [])]
        return choose(self.losses, limits)

    def _kept(self, one: Attempt) -> bool:
        limit = max((size.limit for size in self.size.values()), default=math.inf)
        faster = one.measured < min(latency.fixed for latency in self.latency.values())
        return faster and one.measured <= self.allowed * (1 + TOLERANCE) and one.size <= limit
