"""Which narrowed students a latency table measures: each group alone at each width, then many at once.

Groups alone show the steps at channel multiples. What two groups that meet in a layer cost together shows only where both
are narrow, and many things weighed together are known better than one at a time: one engine with every group at some width
tells of all of them (Hotelling 1944, doi 10.1214/aoms/1177731236, section 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UserError

Widths = dict[str, int]
"""Channels that stay, by group."""

MOST_WIDTHS = 8  # of a group; of more multiples, evenly spread ones
MOST_TOGETHER = 48  # plans with many groups narrow
SPARE = 6  # plans beyond those that the model's terms need, so that the fit can be checked
DRAWN = 32  # plans drawn at random for each that is taken


@dataclass(frozen=True)
class Space:
    """The widths that each prunable group may have, ascending, its own last; `meets`: groups that one layer reads and makes."""

    widths: Mapping[str, tuple[int, ...]]
    meets: tuple[tuple[str, str], ...]

    @property
    def whole(self) -> Widths:
        return {group: widths[-1] for group, widths in self.widths.items()}

    @property
    def least(self) -> Widths:
        return {group: widths[0] for group, widths in self.widths.items()}

    @property
    def narrowable(self) -> list[str]:
        """Groups with more than one width."""
        return [group for group, widths in self.widths.items() if len(widths) > 1]

    def to_json(self) -> dict[str, Any]:
        return {"widths": {g: list(w) for g, w in self.widths.items()}, "meets": [list(pair) for pair in self.meets]}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Space:
        return cls({g: tuple(w) for g, w in found["widths"].items()}, tuple((a, b) for a, b in found["meets"]))


def allowed(channels: int, multiple: int) -> tuple[int, ...]:
    """The widths that a group of so many channels may have: multiples of the target's, and its own.

    >>> allowed(24, 8), allowed(20, 8), allowed(6, 8), len(allowed(512, 8))
    ((8, 16, 24), (8, 16, 20), (6,), 8)
    """
    widths = [*range(multiple, channels, multiple), channels]
    if len(widths) <= MOST_WIDTHS:
        return tuple(widths)
    spread = np.linspace(0, len(widths) - 1, MOST_WIDTHS).round().astype(int)
    return tuple(widths[i] for i in spread)


def design(space: Space, seed: int = 0) -> list[Widths]:
    """The plans to measure, the whole student first, then each group alone at each width, the least plan, and those together.

    Of random plans, those are taken that tell most of what the earlier ones do not: the largest part of their row of the
    model that is orthogonal to all rows before (a greedy D-optimal choice). Raises UserError if no group can be narrowed.
    """
    if not space.narrowable:
        raise UserError(
            "no group of channels can be narrowed: none is wider than one channel multiple",
            hint="a lower channel_multiple in the target, or a wider student",
        )
    plans = [space.whole]
    plans += [{**space.whole, group: w} for group in space.narrowable for w in space.widths[group][-2::-1]]
    if space.least not in plans:
        plans.append(space.least)
    random, basis = np.random.default_rng(seed), _Basis(len(columns(space)))
    for plan in plans:
        basis.take(row(space, plan))
    lacking = len(columns(space)) - basis.rank
    for _ in range(min(lacking + SPARE, MOST_TOGETHER)):
        drawn = [plan for plan in _draws(space, random) if plan not in plans]
        if not drawn:
            break
        best = drawn[int(np.linalg.norm(basis.new(matrix(space, drawn)), axis=1).argmax())]
        basis.take(row(space, best))
        plans.append(best)
    return plans


def _draws(space: Space, random: np.random.Generator) -> Iterator[Widths]:
    for _ in range(DRAWN):
        yield {group: int(random.choice(widths)) for group, widths in space.widths.items()}


def columns(space: Space) -> list[tuple[str, ...]]:
    """What the model's step columns are of: nothing (the constant), a group at a width, two groups at a width each."""
    steps = {group: [f"{group}\0{width}" for width in widths[1:]] for group, widths in space.widths.items()}
    alone: list[tuple[str, ...]] = [(step,) for group in steps for step in steps[group]]
    return [(), *alone, *((a, b) for one, other in space.meets for a in steps[one] for b in steps[other])]


def row(space: Space, plan: Mapping[str, int]) -> NDArray[np.float64]:
    """The step columns of one plan: 1 where its groups are at least that wide. [columns]"""
    steps = {g: np.array([plan[g] >= width for width in widths[1:]], float) for g, widths in space.widths.items()}
    pairs = [np.outer(steps[a], steps[b]).ravel() for a, b in space.meets]
    return np.concatenate([np.ones(1), *steps.values(), *pairs])


class _Basis:
    """Orthonormal directions of the rows taken so far: [directions, columns]."""

    def __init__(self, columns: int) -> None:
        self._directions = np.zeros((0, columns))

    @property
    def rank(self) -> int:
        return len(self._directions)

    def new(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is left of each row: [rows, columns]."""
        for _ in range(2):  # twice, since once leaves rounding
            rows = rows - (rows @ self._directions.T) @ self._directions
        return rows

    def take(self, of: NDArray[np.float64]) -> None:
        left = self.new(of[None])
        if (length := float(np.linalg.norm(left))) > 1e-9:
            self._directions = np.vstack([self._directions, left / length])


def matrix(space: Space, plans: Sequence[Mapping[str, int]]) -> NDArray[np.float64]:
    """[plans, columns]"""
    return np.array([row(space, plan) for plan in plans])
