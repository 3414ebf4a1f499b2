"""A latency table as a picture: a panel for each group, its width across, the engine's latency up; steps are where it steps."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from edgekd.report.svg import Axis, element, fitted, text
from edgekd.units import format_seconds

if TYPE_CHECKING:
    from edgekd.latency.predictor import Predictor
    from edgekd.latency.table import Kind, Table

ACROSS, WIDE, HIGH, HEAD = 3, 300, 190, 62
COLOURS = ("#3f5fa8", "#0a6b5e", "#8a5a12", "#a4332a", "#6b4a9e", "#555c58")
STYLE = (
    "text { font: 11px system-ui, sans-serif; fill: #555c58 } .name { font-weight: 600; fill: #1a1d1b; font-size: 12.5px }"
    " .grid { stroke: #dfe2de } .step { fill: none; stroke-width: 1.5 } .whisker { stroke-width: 1.5 }"
)


def draw(table: Table) -> str:
    """The whole picture as an SVG file. Dots are measured, whiskers their 95% intervals, lines what the fitted model predicts."""
    groups, kinds = table.space.narrowable, list(table.rows)
    predictors = {kind: table.predictor(kind) for kind in kinds}
    columns = min(ACROSS, len(groups))
    width, height = max(columns * WIDE, 420), HEAD + -(-len(groups) // ACROSS) * HIGH
    parts = [element("style", STYLE), element("rect", width=width, height=height, fill="#ffffff")]
    parts.append(text("Latency with one group narrowed, by the channels that it keeps", 12, 20, class_="name"))
    for index, kind in enumerate(kinds):
        x = 12 + index * 200
        parts.append(element("circle", cx=x + 4, cy=38, r=4, fill=COLOURS[index % len(COLOURS)]))
        parts.append(text(f"{kind.name}, ±{predictors[kind].error(0.5):.1%}", x + 13, 42))
    for index, group in enumerate(groups):
        left, top = index % ACROSS * WIDE, HEAD + index // ACROSS * HIGH
        parts.append(_panel(table, predictors, group, float(left), float(top)))
    view = f"0 0 {width} {height}"
    label = f"Latency of {len(groups)} groups of channels at each width, measured and predicted"
    said = {"viewBox": view, "xmlns": "http://www.w3.org/2000/svg", "role": "img", "aria_label": label}
    return element("svg", *parts, width=width, height=height, **said) + "\n"


def _panel(table: Table, predictors: dict[Kind, Predictor], group: str, left: float, top: float) -> str:
    rows = {kind: table.alone(kind, group) for kind in predictors}
    slowest = max(row.seconds * row.high / row.share for found in rows.values() for _, row in found)
    fastest = min(row.seconds * row.low / row.share for found in rows.values() for _, row in found)
    widths = table.space.widths[group]
    x = Axis(0, widths[-1], left + 62, left + WIDE - 14)
    y = Axis(fastest - (slowest - fastest) * 0.1 - slowest * 0.01, slowest, top + HIGH - 34, top + 26)
    parts = [text(fitted(group, 12.5, WIDE - 80), left + 62, top + 16, class_="name")]
    for value in y.ticks(4):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y.at(value), y2=y.at(value), class_="grid"))
        parts.append(text(format_seconds(value), x.start - 6, y.at(value) + 4, text_anchor="end"))
    parts.extend(text(str(width), x.at(width), y.start + 16, text_anchor="middle") for width in widths)
    for index, (kind, predictor) in enumerate(predictors.items()):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(element("path", d=_stairs(table, predictor, group, x, y), class_="step", stroke=colour))
        for width, row in rows[kind]:
            ends = [y.at(row.seconds * end / row.share) for end in (row.low, row.high)]
            place = x.at(width)
            parts.append(element("line", x1=place, x2=place, y1=ends[0], y2=ends[1], class_="whisker", stroke=colour))
            hint = (
                f"{group}, {width} channels, {kind.name}: {format_seconds(row.seconds)}, {row.share:.3f} of the whole"
            )
            parts.append(
                element("circle", element("title", escape(hint)), cx=place, cy=y.at(row.seconds), r=3.5, fill=colour)
            )
    return element("g", *parts)


def _stairs(table: Table, predictor: Predictor, group: str, x: Axis, y: Axis) -> str:
    """A stair for each width, up to it: a channel more than a tabled width is priced as the next one."""
    whole, before, path = table.space.whole, 0, ""
    for width in table.space.widths[group]:
        at = y.at(predictor.predicted({**whole, group: width}))
        path += f"{'L' if path else 'M'}{x.at(before):.1f} {at:.1f}L{x.at(width):.1f} {at:.1f}"
        before = width
    return path
