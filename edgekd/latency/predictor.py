"""From measured plans to the latency of any plan: fixed cost, steps of each group, and of each two groups that meet.

A layer costs what its input and output widths cost together, so a table over output widths alone is not enough (Sun et al.
2025, MDP, arXiv 2504.02168: a latency matrix over both). Here the matrices are not measured layer by layer,
which would miss fusion and fixed costs, but fitted to whole engines:

    latency(w) = c + Σ_g Σ_k a_gk [w_g ≥ W_gk] + Σ_gh Σ_kl b_ghkl [w_g ≥ W_gk] [w_h ≥ W_hl],   all c, a, b ≥ 0

so that no width is predicted to be faster than a narrower one, and steps are steps. Terms proportional to w_g and w_g · w_h
stand beside the steps, which are held back by a ridge as strong as leave-out error says: few measurements give a smooth model, many
a stepped one. Squares of relative errors are minimised, by non-negative least squares (Lawson, Hanson 1974, chapter 23).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgekdError
from edgekd.latency.design import Space, matrix

Array = NDArray[np.float64]
RIDGES = (1e-9, 1e-3, 1e-2, 1e-1)
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Predictor:
    """`fixed` seconds; `alone [widths]` of each group; `together [widths, widths]` of each two groups that meet."""

    space: Space
    fixed: float
    alone: Mapping[str, Array]
    together: Mapping[tuple[str, str], Array]
    left_out: tuple[float, ...]
    """Relative error of each measured plan, predicted by a fit that had not seen it."""

    def seconds(self, plan: Mapping[str, int]) -> float:
        """Predicted latency of a plan whose widths are tabled. Raises EdgekdError for one that is not."""
        at = {}
        for group, widths in self.space.widths.items():
            if plan[group] not in widths:
                raise EdgekdError(f'the latency table has no width {plan[group]} of "{group}"', hint=f"it has {widths}")
            at[group] = widths.index(plan[group])
        alone = sum(float(values[at[group]]) for group, values in self.alone.items())
        return self.fixed + alone + sum(float(v[at[a], at[b]]) for (a, b), v in self.together.items())

    def error(self, share: float) -> float:
        """The absolute relative error, left out, that the `share` of measured plans do not exceed."""
        return float(np.quantile(np.abs(self.left_out), share))

    def said(self) -> dict[str, Any]:
        return {"error": {"median": self.error(0.5), "p95": self.error(0.95), "largest": self.error(1.0)}}


def fit(space: Space, plans: Sequence[Mapping[str, int]], seconds: Sequence[float], seed: int = 0) -> Predictor:
    """The model of these measured plans. Raises EdgekdError for a latency that is not above zero."""
    y = np.asarray(seconds, float)
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise EdgekdError("a plan was measured at a latency that is not above zero", hint="measure the table again")
    rows = np.hstack([matrix(space, plans), _smooth(space, plans)])
    steps = np.arange(rows.shape[1]) < rows.shape[1] - _smooth(space, plans[:1]).shape[1]
    steps[0] = False  # the constant is not held back
    folds = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    errors = {ridge: _left_out(rows, y, steps, ridge, folds) for ridge in RIDGES}
    ridge = min(RIDGES, key=lambda one: float((errors[one] ** 2).sum()))
    return _predictor(space, _solve(rows, y, steps, ridge), tuple(errors[ridge].tolist()))


def _smooth(space: Space, plans: Sequence[Mapping[str, int]]) -> Array:
    """Widths as shares of the whole, and their products where groups meet: [plans, groups + meets]."""
    shares = {group: np.array([plan[group] / widths[-1] for plan in plans]) for group, widths in space.widths.items()}
    return np.array([*shares.values(), *(shares[a] * shares[b] for a, b in space.meets)]).reshape(-1, len(plans)).T


def _solve(rows: Array, y: Array, steps: NDArray[np.bool_], ridge: float) -> Array:
    """min ‖rows x / y − 1‖² + ridge · plans · ‖x_steps / mean y‖², x ≥ 0. [columns], in seconds."""
    from scipy.optimize import nnls

    scale = float(y.mean())
    held = np.diag(np.sqrt(ridge * len(y)) * steps.astype(float))[steps]
    known = np.concatenate([np.ones(len(y)), np.zeros(len(held))])
    found, _ = nnls(np.vstack([rows * scale / y[:, None], held]), known, maxiter=30 * rows.shape[1])
    return np.asarray(found * scale)


def _left_out(rows: Array, y: Array, steps: NDArray[np.bool_], ridge: float, folds: NDArray[np.int_]) -> Array:
    errors = np.zeros(len(y))
    for fold in range(FOLDS):
        out = folds == fold
        if out.any() and not out.all():
            errors[out] = rows[out] @ _solve(rows[~out], y[~out], steps, ridge) / y[out] - 1
    return errors


def _predictor(space: Space, found: Array, left_out: tuple[float, ...]) -> Predictor:
    """The coefficients, summed up to each width."""
    parts, start = [], 1
    sizes = [len(w) - 1 for w in space.widths.values()]
    sizes += [(len(space.widths[a]) - 1) * (len(space.widths[b]) - 1) for a, b in space.meets]
    for size in [*sizes, *[1] * (len(space.widths) + len(space.meets))]:
        parts.append(found[start : start + size])
        start += size
    steps, smooth = parts[: len(sizes)], [float(part[0]) for part in parts[len(sizes) :]]
    shares = {group: np.array(widths) / widths[-1] for group, widths in space.widths.items()}
    alone, together = {}, {}
    for index, group in enumerate(space.widths):
        alone[group] = np.concatenate([[0.0], np.cumsum(steps[index])]) + smooth[index] * shares[group]
    for index, (a, b) in enumerate(space.meets, len(space.widths)):
        summed = np.zeros((len(shares[a]), len(shares[b])))
        summed[1:, 1:] = steps[index].reshape(len(shares[a]) - 1, len(shares[b]) - 1).cumsum(0).cumsum(1)
        together[a, b] = summed + smooth[index] * np.outer(shares[a], shares[b])
    return Predictor(space, float(found[0]), alone, together, left_out)
