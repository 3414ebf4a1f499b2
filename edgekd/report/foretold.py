"""What pruning under a budget predicted, and what its engine was measured to take, in words."""

from __future__ import annotations

from edgekd.report.figures import Limit, Pruned
from edgekd.report.words import MINUS
from edgekd.units import format_bytes, format_seconds

HEADING = "Pruned to a budget: predicted and measured"


def said(shown: Pruned) -> list[str]:
    """A line for each limit, and one on how it was met."""
    plans = f"{shown.plans} plans were" if shown.plans > 1 else "the first plan was"
    return [*(_limit(shown.version, one) for one in shown.limits), f"Met on {shown.engine}; {plans} measured."]


def _limit(version: str, one: Limit) -> str:
    show = format_seconds if one.quantity == "latency" else format_bytes
    off = f"{one.measured / one.predicted - 1:+.1%}".replace("-", MINUS)
    return (
        f'"{version}", {one.quantity} of {one.budget} ({show(one.allowed)}): predicted {show(one.predicted)}, measured '
        f"{show(one.measured)} ({off}), the whole student {show(one.whole)}. Predictions of other engines were off by {one.error:.1%} "
        f"in the median, {one.largest:.1%} at most."
    )
