"""Widths of all groups chosen together: the most importance that a budget allows, by an integer programme.

    maximise  Σ_g Σ_k value_gk x_gk    subject to  cost_q(x) ≤ budget_q for each quantity q,  Σ_k x_gk = 1,  x binary

A quantity is the latency of an engine, its size or its peak memory. What two groups that meet cost is a matrix over both widths;
y_ghkl stands for x_gk · x_hl, kept so by Σ_l y_ghkl = x_gk and Σ_k y_ghkl = x_hl. The programme is that of Sun et al. 2025 (MDP,
arXiv 2504.02168), solved by HiGHS (Huangfu, Hall 2018, doi 10.1007/s12532-017-0130-5) to proven optimality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgekdError
from edgekd.latency.design import Space, Widths
from edgekd.latency.predictor import Predictor

TOLERANCE = {"latency": 0.05, "size": 0.0, "memory": 0.05}
"""How far above its limit a plan may measure; bytes of files are exact."""
OFF = 0.05  # a prediction that is further off than this is corrected
TRIES = 4
WIDER = 1e-6  # what a wider plan is worth where the scores do not tell: whatever buys nothing stays
SHARES = 200  # of the whole width, as steps, that `uniform` tries
STEP = 0.002  # of the whole student's multiply-accumulates, to which `by_macs` finds what keeps the limits

Values = Mapping[str, NDArray[np.float64]]
"""[widths] for each group: the importance that it retains at each of its widths, as a share of all importance."""


@dataclass(frozen=True)
class Limit:
    """At most `most` of a quantity: "latency" in seconds, "size" or "memory" in bytes, as `predictor` foretells it."""

    quantity: str
    predictor: Predictor
    most: float

    def over(self, value: float) -> float:
        """`value` as a share of what is accepted."""
        return value / (self.most * (1 + TOLERANCE[self.quantity]))


Choose = Callable[[Sequence[Limit], Values], Widths]
"""(limits of one kind of engine, all over the same space; values) → the plan. Groups without values stay whole.

Raises UnreachableError where the least plan is predicted to break a limit."""


class UnreachableError(EdgekdError):
    """No plan keeps the limit on `quantity`. The least of it is `least`, of the plan `widths`; `over`: that as a share of the limit."""

    def __init__(self, quantity: str, least: float, over: float, widths: Widths) -> None:
        super().__init__(f"the least {quantity} that can be reached is {least:g}")
        self.quantity, self.least, self.over, self.widths = quantity, least, over, widths


def values_of(space: Space, scores: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    """What each width of each group retains: its best scores, as a share of all. Scores below zero count as zero.

    >>> values = values_of(Space({"a": (1, 2), "b": (2, 3)}, ()), {"a": [1.0, 3.0], "b": [2.0, 2.0, 2.0]})
    >>> values["a"].round(2).tolist(), values["b"].round(2).tolist()
    ([0.3, 0.4], [0.4, 0.6])
    """
    best = {group: np.sort(np.clip(np.asarray(s, float), 0, None))[::-1] for group, s in scores.items()}
    total = sum(float(s.sum()) for s in best.values()) or 1.0
    return {g: np.array([best[g][:width].sum() for width in space.widths[g]]) / total for g in best}


def allocate(limits: Sequence[Limit], values: Values) -> Widths:
    """The plan that is predicted to keep all limits, and of those retains most: see `Choose`."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    _reachable(limits, values)
    space = limits[0].predictor.space
    at, size = {}, 0
    for group, widths in space.widths.items():
        at[group], size = slice(size, size + len(widths)), size + len(widths)
    binaries = size
    pairs = {}
    for one, other in limits[0].predictor.together:
        count = len(space.widths[one]) * len(space.widths[other])
        pairs[one, other], size = slice(size, size + count), size + count
    gain, lower = np.zeros(size), np.zeros(size)
    equal, known = [], []
    for group, widths in space.widths.items():
        gain[at[group]] = values.get(group, np.zeros(len(widths))) + WIDER * np.array(widths) / widths[-1]
        if group not in values:
            lower[at[group].stop - 1] = 1.0
        line = np.zeros(size)
        line[at[group]] = 1.0
        equal.append(line)
        known.append(1.0)
    for (one, other), part in pairs.items():
        place = np.arange(size)[part].reshape(len(space.widths[one]), -1)
        for group, axes in ((one, place), (other, place.T)):
            for index, members in enumerate(axes):
                line = np.zeros(size)
                line[members], line[at[group].start + index] = 1.0, -1.0
                equal.append(line)
                known.append(0.0)
    costs, left = [], []
    for limit in limits:
        cost = np.zeros(size)
        for group, alone in limit.predictor.alone.items():
            cost[at[group]] = alone
        for pair, together in limit.predictor.together.items():
            cost[pairs[pair]] = together.ravel()
        costs.append(cost / limit.most)
        left.append(1 - limit.predictor.fixed / limit.most)
    kept = LinearConstraint(np.array(costs), -np.inf, left)
    exact = LinearConstraint(np.array(equal), known, known)
    integer = (np.arange(size) < binaries).astype(int)
    found = milp(
        -gain, constraints=[kept, exact], integrality=integer, bounds=Bounds(lower, 1), options={"mip_rel_gap": 0}
    )
    if found.x is None:
        raise EdgekdError(f"the integer programme was not solved: {found.message}")
    return {group: widths[int(np.argmax(found.x[at[group]]))] for group, widths in space.widths.items()}


def uniform(limits: Sequence[Limit], values: Values) -> Widths:
    """The same share of every group, as near as its widths allow: the largest that is predicted to keep all limits. See `Choose`."""
    least, space = _reachable(limits, values), limits[0].predictor.space
    for step in range(SHARES, 0, -1):
        plan = {g: _nearest(w, step / SHARES) if g in values else w[-1] for g, w in space.widths.items()}
        if _keeps(plan, limits):
            return plan
    return least


def by_macs(macs: Predictor) -> Choose:
    """To choose by multiply-accumulates: the plan that retains most for so many, the most for which the limits are predicted to be kept."""

    def choose(limits: Sequence[Limit], values: Values) -> Widths:
        best = _reachable(limits, values)
        whole = macs.predicted(macs.space.whole)
        low, high = macs.predicted(best), whole
        while high - low > STEP * whole:
            middle = (low + high) / 2
            plan = allocate([Limit("macs", macs, middle)], values)
            if _keeps(plan, limits):
                best, low = plan, middle
            else:
                high = middle
        return best

    return choose


def _nearest(widths: Sequence[int], share: float) -> int:
    return min(widths, key=lambda width: abs(width - share * widths[-1]))


def _least(space: Space, values: Values) -> Widths:
    return {group: widths[0 if group in values else -1] for group, widths in space.widths.items()}


def _keeps(plan: Widths, limits: Sequence[Limit]) -> bool:
    return all(limit.predictor.predicted(plan) <= limit.most * (1 + 1e-9) for limit in limits)


def _reachable(limits: Sequence[Limit], values: Values) -> Widths:
    """The least plan, which no other undercuts in anything, since no width is predicted below a narrower one. Raises UnreachableError."""
    least = _least(limits[0].predictor.space, values)
    if not _keeps(least, limits):
        predicted = [(limit.predictor.predicted(least), limit) for limit in limits]
        value, worst = max(predicted, key=lambda pair: pair[0] / pair[1].most)
        raise UnreachableError(worst.quantity, value, value / worst.most, least)
    return least


@dataclass(frozen=True)
class Attempt:
    """A plan that was compiled: each quantity as predicted and as measured, of the kind of engine (its number) that keeps the limits best.

    `over`: the worst of what was measured, as a share of what is accepted; `retained`: the share of importance that it keeps.
    """

    widths: Widths
    kind: int
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    over: float
    retained: float

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "kind"}


def meet(
    kinds: Sequence[Sequence[Limit]],
    values: Values,
    measure: Callable[[Widths], Sequence[Mapping[str, float]]],
    choose: Choose = allocate,
) -> tuple[Attempt, list[Attempt]]:
    """The best plan that was measured to keep the limits, and all that were tried.

    `kinds`: the limits on each kind of engine; a plan keeps them if one kind keeps all. `measure` gives what each kind was measured
    to take. Where a plan misses a prediction by more than 5%, predictions of that kind are corrected by that factor and the plan made
    again, at most three times; the least plan is the last that is tried. Raises UnreachableError where even that breaks a limit.
    """
    tried: list[Attempt] = []
    space = kinds[0][0].predictor.space
    factors = [{limit.quantity: 1.0 for limit in limits} for limits in kinds]
    retained = partial(_retained, space, values)

    def attempt(widths: Widths) -> Attempt:
        made = []
        for number, (limits, found) in enumerate(zip(kinds, measure(widths), strict=True)):
            predicted = {limit.quantity: limit.predictor.predicted(widths) for limit in limits}
            measured = {limit.quantity: float(found[limit.quantity]) for limit in limits}
            factors[number] = {name: measured[name] / predicted[name] for name in predicted}
            over = max(limit.over(measured[limit.quantity]) for limit in limits)
            made.append(Attempt(widths, number, predicted, measured, over, retained(widths)))
        tried.append(min(made, key=lambda one: one.over))
        return tried[-1]

    while len(tried) < TRIES:
        plans, failed = [], []
        for limits, factor in zip(kinds, factors, strict=True):
            try:
                plans.append(choose([replace(one, most=one.most / factor[one.quantity]) for one in limits], values))
            except UnreachableError as error:
                failed.append(error)
        if not plans and not tried:
            raise min(failed, key=lambda error: error.over)
        fresh = [plan for plan in plans if plan not in [one.widths for one in tried]]
        if not fresh:
            break
        now = attempt(max(fresh, key=retained))
        if now.over <= 1 and all(abs(factor - 1) <= OFF for factor in factors[now.kind].values()):
            break
    kept = [one for one in tried if one.over <= 1]
    if not kept:
        least = _least(space, values)
        last = next((one for one in tried if one.widths == least), None) or attempt(least)
        if last.over > 1:
            raise _missed(min(tried, key=lambda one: one.over), kinds)
        kept = [last]
    return max(kept, key=lambda one: one.retained), tried


def _missed(nearest: Attempt, kinds: Sequence[Sequence[Limit]]) -> UnreachableError:
    worst = max(kinds[nearest.kind], key=lambda limit: limit.over(nearest.measured[limit.quantity]))
    return UnreachableError(worst.quantity, nearest.measured[worst.quantity], nearest.over, nearest.widths)


def _retained(space: Space, values: Values, plan: Widths) -> float:
    return sum(float(v[space.widths[group].index(plan[group])]) for group, v in values.items())
