"""One ledger row's score as a point on a scale that all rows share, with the reference and the allowed floor."""

from __future__ import annotations

from edgekd.ledger import Z95, Change
from edgekd.report import words
from edgekd.report.scatter import floor
from edgekd.report.schema import LedgerRow, Report
from edgekd.report.svg import Axis, element, picture

WIDTH, HEIGHT = 132, 22


def draw(report: Report, row: LedgerRow, change: Change | None) -> str:
    """The row as SVG: a dot, the way it came from the row before, and 95% whiskers of that change where they are known."""
    reference = next((one.metric for one in report.ledger if one.version == report.metric.reference), None)
    drop = report.budget.metric_drop
    allowed = None if reference is None or drop is None else reference - drop
    low, high = _ends(report, reference, drop)
    margin = (high - low) * 0.06 or 0.01
    x = Axis(low - margin, high + margin, 8, WIDTH - 8)
    middle = HEIGHT / 2
    parts = [element("line", x1=2, x2=WIDTH - 2, y1=middle, y2=middle, class_="base")]
    for value, name in ((reference, "reference"), (allowed, "allowed")):
        if value is not None:
            parts.append(element("line", x1=x.at(value), x2=x.at(value), y1=2, y2=HEIGHT - 2, class_=name))
    name = f"{words.score(row.metric, report.metric.name)}"
    if row.metric < x.low:
        parts.append(element("path", d=f"M9 {middle - 4:.0f}L2 {middle:.0f}L9 {middle + 4:.0f}Z", class_="dot"))
        return picture(WIDTH, HEIGHT, f"{name}, far below the others", *parts)
    if change is not None and change.before.metric >= x.low:
        parts.append(
            element("line", x1=x.at(change.before.metric), x2=x.at(row.metric), y1=middle, y2=middle, class_="way")
        )
    if change is not None and change.standard_error and change.before.metric >= x.low:
        margin = Z95 * change.standard_error
        ends = [x.at(min(max(row.metric + side * margin, x.low), x.high)) for side in (-1, 1)]
        parts.append(element("line", x1=ends[0], x2=ends[1], y1=middle + 6, y2=middle + 6, class_="whisker"))
    parts.append(element("circle", cx=x.at(row.metric), cy=middle, r=4, class_="dot"))
    return picture(WIDTH, HEIGHT, name, *parts)


def _ends(report: Report, reference: float | None, drop: float | None) -> tuple[float, float]:
    """The scale's ends: from the reference and what follows it, not from an untrained student far below."""
    scores = [one.metric for one in report.ledger]
    high = max(scores)
    if reference is None:
        return floor(scores), high
    room = max(3 * (drop or 0.0), 0.02 * abs(reference))
    near = [score for score in scores if score >= reference - room]
    return min([*near, reference - (drop or 0.0)]), high
