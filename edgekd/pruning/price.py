"""The expected latency of an encoder whose branches, heads and channels have gates: what `Size` is for weights.

    E[latency] = c + Σ_streams s E[w] + Σ_branches P(z ≠ 0) (b_k + w_k E[w] + m_k E[size]),   all c, s, b, w, m ≥ 0

with w the width of a group and size the weights of a branch, as shares of the whole ones. Branches that are alike (k: of one form
and size) cost alike. b is what a branch costs however narrow it is (its norm, a softmax, calls), w what goes with its heads or
channels (scores of attention, activations), m what goes with its weights. Gates are independent, so that expectations of products
are products of chances, as in Xia et al. 2022, arXiv 2204.00408, section 3.1, for the size.

The coefficients are fitted to engines of whole students, narrowed and with branches taken out, by non-negative least squares of
relative errors: what `edgekd.latency.predictor` does for widths, for the few terms that an encoder of layers alike has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from edgekd.latency.predictor import solve
from edgekd.pruning.branches import Branch
from edgekd.pruning.groups import Group
from edgekd.pruning.size import Channels, Presence, Size
from edgekd.pruning.widths import rounded

SHARES = (0.5, 0.125)
"""Widths at which each kind of branch, and each stream, is measured by itself."""
DRAWN = 6
"""Further plans, with widths and branches drawn at random."""


@dataclass(frozen=True)
class Plan:
    """What stays: so many of each group's channels, and all branches but those `gone`, by name."""

    widths: Mapping[str, int]
    gone: frozenset[str] = frozenset()

    def channels(self, group: Group) -> torch.Tensor:
        """Which channels are there, the first ones: [channels]."""
        return (torch.arange(group.channels) < self.widths[group.name]).float()

    def branch(self, branch: Branch) -> torch.Tensor:
        return torch.tensor(float(branch.name not in self.gone))

    def keep(self, groups: Sequence[Group]) -> dict[str, list[int]]:
        """{group: the first channels}, of those groups that have some left."""
        return {g.name: list(range(self.widths[g.name])) for g in groups if g.name not in self.gone}

    def to_json(self) -> dict[str, Any]:
        return {"widths": dict(self.widths), "gone": sorted(self.gone)}


class Terms:
    """What the latency of a plan is a sum of: `row` [columns], the same for chances and for a plan, where these are 0 or 1."""

    def __init__(self, groups: Sequence[Group], branches: Sequence[Branch]) -> None:
        self.groups, self.branches = tuple(groups), tuple(branches)
        inside = {branch.name for branch in branches}
        self.streams = tuple(group for group in groups if group.name not in inside)
        self._size = Size(groups, branches)
        each = self._size.each(lambda group: torch.ones(group.channels))
        self._whole = {branch: float(weights) for branch, weights in each}
        self.kinds: dict[tuple[bool, int, float], list[Branch]] = {}
        for branch in branches:
            kind = (branch.attention, branch.group.channels, self._whole[branch])
            self.kinds.setdefault(kind, []).append(branch)

    def row(self, channels: Channels, branch: Presence) -> torch.Tensor:
        """[1 + streams + 3 · kinds]"""
        weights = dict(self._size.each(channels))
        found = [torch.ones(()), *(channels(stream).mean() for stream in self.streams)]
        for alike in self.kinds.values():
            there = torch.stack([branch(one) for one in alike])
            width = torch.stack([channels(one.group).mean() for one in alike])
            size = torch.stack([weights[one] / self._whole[one] for one in alike])
            found += [there.sum(), (there * width).sum(), (there * size).sum()]
        return torch.stack(found)

    def of(self, plan: Plan) -> torch.Tensor:
        return self.row(plan.channels, plan.branch)


def design(terms: Terms, steps: Mapping[str, int], seed: int = 0) -> list[Plan]:
    """The plans that are measured, the whole student first and the least last; `steps`: in what numbers a group's channels go.

    Each kind of branch and each stream is narrowed by itself, each kind taken out, by half and as a whole; then all at once.
    """
    draw = np.random.default_rng(seed)
    every = [branch.name for branch in terms.branches]

    def plan(shares: Mapping[str, float], gone: Sequence[str] = ()) -> Plan:
        widths = {
            g.name: rounded(shares.get(g.name, 1.0) * g.channels, g.channels, steps[g.name]) for g in terms.groups
        }
        return Plan(widths, frozenset(gone))

    def all_at(share: float) -> dict[str, float]:
        return dict.fromkeys((group.name for group in terms.groups), share)

    found = [plan({})]
    sets = [[one.name for one in alike] for alike in terms.kinds.values()]
    for names in [*sets, *([stream.name] for stream in terms.streams)]:
        found += [plan(dict.fromkeys(names, share)) for share in SHARES]
    for names in sets:
        found += [plan({}, names[::2]), plan({}, names)]
    found += [plan(all_at(0.5)), plan(all_at(0.25)), plan(all_at(0.5), every[::2])]
    for _ in range(DRAWN):
        shares = {group.name: float(draw.uniform(0.1, 1.0)) for group in terms.groups}
        found.append(plan(shares, [name for name in every if draw.random() < 0.4]))
    distinct = {repr(one.to_json()): one for one in found}
    least = plan(all_at(0.0), every)
    return [*(one for one in distinct.values() if one != least), least]


class Price:
    """The expected latency in seconds: of several kinds of engines that of the fastest. `whole`: what that one was measured to take.

    `rows` [plans, columns] and, for each kind, what it was measured to take of each plan, the first being the whole student;
    infinite where it has no engine.
    """

    name: ClassVar[str] = "latency"

    def __init__(self, terms: Terms, plans: Sequence[Plan], taken: Mapping[str, Sequence[float]]) -> None:
        self.terms = terms
        rows = torch.stack([terms.of(plan) for plan in plans]).double().numpy()
        self.whole = min(seconds[0] for seconds in taken.values())
        self.error: dict[str, list[float]] = {}
        found = []
        for kind, seconds in taken.items():
            there = np.isfinite(seconds)
            known, y = rows[there], np.asarray(seconds, float)[there]
            found.append(_fitted(known, y))
            left_out = [_unseen(known, y, index) for index in range(1, len(y))]
            self.error[kind] = [float(np.quantile(np.abs(left_out), share)) for share in (0.5, 1.0)]
        self._coefficients = torch.tensor(np.array(found), dtype=torch.float32)

    def expected(self, channels: Channels, branch: Presence) -> torch.Tensor:
        """Seconds, a scalar with a gradient to the chances."""
        return (self._coefficients @ self.terms.row(channels, branch)).min()

    def of(self, plan: Plan) -> float:
        """Seconds that a plan is predicted to take."""
        return float(self.expected(plan.channels, plan.branch))

    def __repr__(self) -> str:
        return f"Price({self._coefficients.tolist()})"


def _fitted(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The coefficients, by which the whole student takes what it was measured to take: all others were raced against it."""
    found = solve(rows, y)
    return np.asarray(found * y[0] / (rows[0] @ found))


def _unseen(rows: np.ndarray, y: np.ndarray, index: int) -> float:
    """The relative error of one plan, predicted from the others."""
    others = np.arange(len(y)) != index
    return float(rows[index] @ _fitted(rows[others], y[others]) / y[index] - 1)
