"""Widths of all groups chosen together: the most importance that a latency allows, by an integer programme.

    maximise  Σ_g Σ_k value_gk x_gk    subject to  latency(x) ≤ budget,  Σ_k x_gk = 1,  x binary

The latency of two groups that meet is a matrix over both widths; y_ghkl stands for x_gk · x_hl, kept so by Σ_l y_ghkl = x_gk and
Σ_k y_ghkl = x_hl. The programme is that of Sun et al. 2025 (MDP, arXiv 2504.02168), solved by HiGHS (Huangfu, Hall 2018,
doi 10.1007/s12532-017-0130-5) to proven optimality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgekdError
from edgekd.latency.design import Space, Widths
from edgekd.latency.predictor import Predictor

TOLERANCE = 0.05
TRIES = 4
WIDER = 1e-6  # what a wider plan is worth where the scores do not tell: whatever buys no time stays

Values = Mapping[str, NDArray[np.float64]]
"""[widths] for each group: the importance that it retains at each of its widths, as a share of all importance."""


class UnreachableError(EdgekdError):
    """No plan is fast enough. `seconds` is the least latency, of the plan `widths`."""

    def __init__(self, seconds: float, widths: Widths) -> None:
        super().__init__(f"the least latency that can be reached is {seconds} s")
        self.seconds, self.widths = seconds, widths


def values_of(space: Space, scores: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    """What each width of each group retains: its best scores, as a share of all. Scores below zero count as zero.

    >>> values = values_of(Space({"a": (1, 2), "b": (2, 3)}, ()), {"a": [1.0, 3.0], "b": [2.0, 2.0, 2.0]})
    >>> values["a"].round(2).tolist(), values["b"].round(2).tolist()
    ([0.3, 0.4], [0.4, 0.6])
    """
    best = {group: np.sort(np.clip(np.asarray(s, float), 0, None))[::-1] for group, s in scores.items()}
    total = sum(float(s.sum()) for s in best.values()) or 1.0
    return {g: np.array([best[g][:width].sum() for width in space.widths[g]]) / total for g in best}


def allocate(predictor: Predictor, values: Values, budget: float) -> Widths:
    """The plan of at most `budget` seconds, as predicted, that retains most. Groups without values stay whole.

    Raises UnreachableError if the least plan is predicted to take longer.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    space = predictor.space
    least = {group: widths[0 if group in values else -1] for group, widths in space.widths.items()}
    if predictor.seconds(least) > budget * (1 + 1e-9):
        raise UnreachableError(predictor.seconds(least), least)
    at, size = {}, 0
    for group, widths in space.widths.items():
        at[group], size = slice(size, size + len(widths)), size + len(widths)
    binaries = size
    pairs = {}
    for pair, costs in predictor.together.items():
        pairs[pair], size = slice(size, size + costs.size), size + costs.size
    gain, cost, lower = np.zeros(size), np.zeros(size), np.zeros(size)
    equal, known = [], []
    for group, widths in space.widths.items():
        cost[at[group]] = predictor.alone[group]
        gain[at[group]] = values.get(group, np.zeros(len(widths))) + WIDER * np.array(widths) / widths[-1]
        if group not in values:
            lower[at[group].stop - 1] = 1.0
        line = np.zeros(size)
        line[at[group]] = 1.0
        equal.append(line)
        known.append(1.0)
    for (one, other), costs in predictor.together.items():
        place = np.arange(size)[pairs[one, other]].reshape(costs.shape)
        cost[pairs[one, other]] = costs.ravel()
        for group, axes in ((one, place), (other, place.T)):
            for index, members in enumerate(axes):
                line = np.zeros(size)
                line[members], line[at[group].start + index] = 1.0, -1.0
                equal.append(line)
                known.append(0.0)
    limit = LinearConstraint(cost[None] / budget, -np.inf, 1 - predictor.fixed / budget)
    exact = LinearConstraint(np.array(equal), known, known)
    integer = (np.arange(size) < binaries).astype(int)
    found = milp(
        -gain, constraints=[limit, exact], integrality=integer, bounds=Bounds(lower, 1), options={"mip_rel_gap": 0}
    )
    if found.x is None:
        raise EdgekdError(f"the integer programme was not solved: {found.message}")
    return {group: widths[int(np.argmax(found.x[at[group]]))] for group, widths in space.widths.items()}


@dataclass(frozen=True)
class Attempt:
    """A plan that was compiled: seconds as predicted and as measured, and the share of importance that it retains."""

    widths: Widths
    predicted: float
    measured: float
    retained: float

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def meet(
    predictors: Sequence[Predictor], values: Values, budget: float, measure: Callable[[Widths], float]
) -> tuple[Attempt, list[Attempt]]:
    """The best plan that was measured to keep the budget, and all that were tried.

    `predictors`: one an engine kind; a plan is as fast as its fastest engine. Where a plan misses its prediction by more than 5%, the
    table is corrected by that factor and the plan made again, at most three times; the least plan is the last that is tried.
    Raises UnreachableError where even that measures more than 5% above the budget.
    """
    tried: list[Attempt] = []
    factor = 1.0

    def attempt(widths: Widths) -> Attempt:
        predicted = min(one.seconds(widths) for one in predictors)
        retained = sum(float(v[predictors[0].space.widths[g].index(widths[g])]) for g, v in values.items())
        tried.append(Attempt(widths, predicted, measure(widths), retained))
        return tried[-1]

    while len(tried) < TRIES:
        plans, failed = [], []
        for predictor in predictors:
            try:
                plans.append(allocate(predictor, values, budget / factor))
            except UnreachableError as error:
                failed.append(error)
        if not plans and not tried:
            raise min(failed, key=lambda error: error.seconds)
        fresh = [plan for plan in plans if plan not in [one.widths for one in tried]]
        if not fresh:
            break
        now = attempt(max(fresh, key=lambda plan: _retained(predictors[0].space, values, plan)))
        factor = now.measured / now.predicted
        if abs(factor - 1) <= TOLERANCE and now.measured <= budget * (1 + TOLERANCE):
            break
    kept = [one for one in tried if one.measured <= budget * (1 + TOLERANCE)]
    if not kept:
        space = predictors[0].space
        least = {group: widths[0 if group in values else -1] for group, widths in space.widths.items()}
        last = next((one for one in tried if one.widths == least), None) or attempt(least)
        if last.measured > budget * (1 + TOLERANCE):
            fastest = min(tried, key=lambda one: one.measured)
            raise UnreachableError(fastest.measured, fastest.widths)
        kept = [last]
    return max(kept, key=lambda one: one.retained), tried


def _retained(space: Space, values: Values, plan: Widths) -> float:
    return sum(float(v[space.widths[group].index(plan[group])]) for group, v in values.items())
