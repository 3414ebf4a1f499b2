"""From measured plans to the latency of any plan: fixed cost, steps of each group, and of each two groups that meet.

A layer costs what its input and output widths cost together, so a table over output widths alone is not enough (Sun et al.
2025, MDP, arXiv 2504.02168: a latency matrix over both). Here the matrices are not measured layer by layer,
which would miss fusion and fixed costs, but fitted to whole engines:

    latency(w) = c + Σ_g Σ_k a_gk [w_g ≥ W_gk] + Σ_gh Σ_kl b_ghkl [w_g ≥ W_gk] [w_h ≥ W_hl],   all c, a, b ≥ 0

so that no width is predicted to be faster than a narrower one, and steps are steps. Few measurements do not
tell all steps, so terms proportional to w_g and to w_g · w_h stand beside them, with w rounded up to the blocks of channels that
kernels compute in, and three models are fitted: those terms alone, with the steps of each group, and with those of two groups.
The one whose error is least on plans left out is taken. Squares of relative errors are minimised, by non-negative least squares
(Lawson, Hanson 1974, "Solving least squares problems", chapter 23). Bytes of an engine and of the process that runs it are told by
the same model: weights are products of widths, activations go with one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import EdgekdError
from edgekd.latency.design import Space, columns, matrix

Array = NDArray[np.float64]
FOLDS = 5
BLOCKS = (1, 8, 16, 32)
"""Channels that a kernel makes at once."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """`fixed`, `alone [widths]` of each group and `together [widths, widths]` of each two groups that meet, in what was measured: seconds,
    or bytes.
    """

    space: Space
    fixed: float
    alone: Mapping[str, Array]
    together: Mapping[tuple[str, str], Array]
    left_out: tuple[float, ...]
    """Relative error of each measured plan, predicted by a fit that had not seen it."""

    def predicted(self, plan: Mapping[str, int]) -> float:
        """What a plan whose widths are tabled is predicted to take. Raises EdgekdError for one that is not."""
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


def fit(space: Space, plans: Sequence[Mapping[str, int]], taken: Sequence[float], seed: int = 0) -> Predictor:
    """The model of these measured plans. Raises EdgekdError for a measurement that is not above zero."""
    y = np.asarray(taken, float)
    if not (np.isfinite(y).all() and (y > 0).all()):
        raise EdgekdError("a plan was measured at what is not above zero", hint="measure the table again")
    rows = np.hstack([matrix(space, plans), _smooth(space, plans)])
    order = np.array([len(of) for of in columns(space)] + [0] * (rows.shape[1] - len(columns(space))))
    folds = np.random.default_rng(seed).permutation(len(y)) % FOLDS
    errors = [_left_out(rows * (order <= most), y, folds) for most in (0, 1, 2)]
    best = min((0, 1, 2), key=lambda most: float((errors[most] ** 2).sum()))
    return _predictor(space, solve(rows * (order <= best), y), tuple(errors[best].tolist()))


def _blocks(widths: Array) -> Array:
    """Widths, the whole last, rounded up to each block, as shares of the whole: [blocks, widths]."""
    rounded = np.array([np.ceil(widths / block) * block for block in BLOCKS])
    return np.asarray(rounded / rounded[:, -1:])


def _smooth(space: Space, plans: Sequence[Mapping[str, int]]) -> Array:
    """Shares of the whole width, and their products where groups meet: [plans, (groups + meets) · blocks]."""
    shares = {
        group: _blocks(np.array([*(plan[group] for plan in plans), widths[-1]], float))[:, :-1]
        for group, widths in space.widths.items()
    }
    return np.vstack([*shares.values(), *(shares[a] * shares[b] for a, b in space.meets)]).T


def solve(rows: Array, y: Array) -> Array:
    """min ‖rows x / y − 1‖², x ≥ 0. [columns], in seconds; a column of zeros gets none."""
    from scipy.optimize import nnls

    told = rows.any(0)
    found, scale = np.zeros(rows.shape[1]), float(y.mean())
    found[told] = nnls(rows[:, told] * scale / y[:, None], np.ones(len(y)), maxiter=30 * rows.shape[1])[0] * scale
    return found


def _left_out(rows: Array, y: Array, folds: NDArray[np.int_]) -> Array:
    errors = np.zeros(len(y))
    for fold in range(FOLDS):
        out = folds == fold
        if out.any() and not out.all():
            errors[out] = rows[out] @ solve(rows[~out], y[~out]) / y[out] - 1
    return errors


def _predictor(space: Space, found: Array, left_out: tuple[float, ...]) -> Predictor:
    """The coefficients, summed up to each width."""
    parts, start = [], 1
    sizes = [len(w) - 1 for w in space.widths.values()]
    sizes += [(len(space.widths[a]) - 1) * (len(space.widths[b]) - 1) for a, b in space.meets]
    for size in [*sizes, *[len(BLOCKS)] * (len(space.widths) + len(space.meets))]:
        parts.append(found[start : start + size])
        start += size
    steps, smooth = parts[: len(sizes)], parts[len(sizes) :]
    shares = {group: _blocks(np.array(widths, float)) for group, widths in space.widths.items()}
    alone, together = {}, {}
    for index, group in enumerate(space.widths):
        alone[group] = np.concatenate([[0.0], np.cumsum(steps[index])]) + smooth[index] @ shares[group]
    for index, (a, b) in enumerate(space.meets, len(space.widths)):
        summed = np.zeros((len(space.widths[a]), len(space.widths[b])))
        summed[1:, 1:] = steps[index].reshape(summed[1:, 1:].shape).cumsum(0).cumsum(1)
        together[a, b] = summed + np.einsum("t,tk,tl->kl", smooth[index], shares[a], shares[b])
    return Predictor(space, float(found[0]), alone, together, left_out)
