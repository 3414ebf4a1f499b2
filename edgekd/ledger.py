"""Where the score went: the change of each ledger row, how sure it is, and the first row that lost more than its share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.figures import Flips
from edgekd.report.schema import FirstLoss, LedgerRow

Z95 = 1.96
"""Standard errors in half of a 95% interval of a normal variable."""

ROUNDING = 1e-9
"""Scores are k/n; a drop that exceeds its limit by less than this does so only in floating point."""


@dataclass(frozen=True)
class Change:
    """A row against the row that it was made from. `lost` is above zero where the score fell."""

    row: LedgerRow
    before: LedgerRow
    lost: float
    standard_error: float | None

    @property
    def within_noise(self) -> bool | None:
        """Whether the change cannot be told from none at 95%; None if its standard error is not known."""
        return None if self.standard_error is None else abs(self.lost) <= Z95 * self.standard_error + ROUNDING


def standard_error(before: float, after: float, samples: int, flips: Flips | None = None) -> float | None:
    """Standard error of the difference of two accuracies on the same n samples; None if there are no samples.

    With flips (b samples became right, c became wrong), for paired samples: sqrt(b + c - (b - c)^2 / n) / n.
    Source: McNemar 1947; Agresti, Categorical Data Analysis, on the comparison of dependent proportions.
    Without, or where the flips do not add up to the difference: sqrt((p (1 - p) + q (1 - q)) / n), as if the samples were
    not the same ones. That is too large, since both mostly err on the same samples: it says "noise" too often, never too seldom.

    >>> standard_error(0.9, 0.8, 100, Flips(better=0, worse=10)), round(standard_error(0.9, 0.8, 100), 9)
    (0.03, 0.05)
    """
    if samples < 1:
        return None
    if flips is not None:
        b, c = flips.better, flips.worse
        if abs((b - c) / samples - (after - before)) < 1 / (2 * samples):
            return math.sqrt(b + c - (b - c) ** 2 / samples) / samples
    p, q = (min(max(score, 0.0), 1.0) for score in (before, after))
    return math.sqrt((p * (1 - p) + q * (1 - q)) / samples)


def changes(rows: Sequence[LedgerRow], samples: int) -> list[Change | None]:
    """The change of each row against the nearest row before it of another name; None for the first.

    Rows of one name are alternatives (an engine a target), so each is compared with what all were made from. `samples`
    is the number of test samples, or 0 for a metric that is no share of them: its standard error is then not known.
    """
    found: list[Change | None] = []
    for index, row in enumerate(rows):
        before = next((one for one in reversed(rows[:index]) if one.row != row.row), None)
        if before is None:
            found.append(None)
            continue
        error = standard_error(before.metric, row.metric, samples, row.flips)
        found.append(Change(row, before, before.metric - row.metric, error))
    return found


def losses(rows: Sequence[LedgerRow], reference: str, samples: int) -> list[Change | None]:
    """The changes of the rows after the reference, which compression answers for; None for it and what comes before."""
    start = next((i for i, row in enumerate(rows) if reference in (row.version, row.row)), len(rows))
    return [change if i > start else None for i, change in enumerate(changes(rows, samples))]


def first_loss(
    rows: Sequence[LedgerRow], reference: str, allowed_drop: float | None, samples: int = 0, metric: str = "accuracy"
) -> FirstLoss | None:
    """The first row after the reference whose score fell, against the row before, by more than its share of the allowed drop.

    The reference is the first row of version (or name) `reference`: the last float student before compression. The steps
    after it share `allowed_drop` equally. A gain earlier on is not carried over: a row answers for its own loss.
    `samples` is the number of test samples, for the standard error. None if no row did, or nothing is limited.
    Raises ValueError if there is no such row.
    """
    start = next((i for i, row in enumerate(rows) if reference in (row.version, row.row)), None)
    if start is None:
        raise ValueError(f'no ledger row is of version "{reference}"')
    after = rows[start + 1 :]
    if allowed_drop is None or not after:
        return None
    share = allowed_drop / len({row.row for row in after})
    for change in losses(rows, reference, samples if metric in words.SHARES else 0):
        if change is not None and change.lost > share + ROUNDING:
            text = _sentence(change, share, allowed_drop, metric)
            return FirstLoss(
                row=change.row.row,
                lost=change.lost,
                share=share,
                standard_error=change.standard_error,
                within_noise=change.within_noise,
                text=text,
            )
    return None


def _sentence(change: Change, share: float, allowed: float, metric: str) -> str:
    scores = f"{words.score(change.before.metric, metric)} → {words.score(change.row.metric, metric)}"
    text = (
        f'"{change.row.row}" lost {words.amount(change.lost, metric)} ({scores}); '
        f"its share of the allowed {words.amount(allowed, metric)} is {words.amount(share, metric)}"
    )
    if change.standard_error is None:
        return f"{text}."
    margin = Z95 * change.standard_error
    if change.within_noise:
        said = "within noise: the loss cannot be told from none"
    elif change.lost - margin <= share:
        said = "the loss is beyond noise, but not surely more than the share"
    else:
        said = "beyond noise"
    return f"{text}. The loss is sure to ±{words.amount(margin, metric)} (95%): {said}."
