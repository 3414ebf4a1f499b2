"""What each layer loses alone, as horizontal bars: the most sensitive layer first, its bits beside it."""

from __future__ import annotations

from edgekd.report import words
from edgekd.report.figures import Layer
from edgekd.report.schema import Sensitivity
from edgekd.report.svg import Axis, element, fitted, picture, room, text

MOST = 24
"""Bars in one picture; what the other layers lose stands below it."""
ROW, THICK = 21.0, 11.0
"""Pixels from one bar to the next, and of a bar."""


def draw(shown: Sensitivity, width: int) -> str:
    """The picture as SVG for a width in pixels; empty where no layer was tried."""
    ranked = ordered(shown)
    if not ranked:
        return ""
    bars, rest = ranked[:MOST], ranked[MOST:]
    size = 12.5 if width >= 600 else 11.0
    column = min(max(room(one.layer, size) for one in bars) + 10, width * 0.42)
    beside = max(room(_said(one), size) for one in bars) + 10
    x = Axis(0.0, max(loss_of(one) for one in bars) or 1.0, column, max(width - beside, column + 40))
    parts = [_bar(one, x, 4 + ROW * index, column, size) for index, one in enumerate(bars)]
    height = 8 + ROW * len(bars)
    parts.append(element("line", x1=x.start, x2=x.start, y1=2, y2=height - 4, class_="base"))
    if rest:
        said = f"and {len(rest)} more layers, {words.loss(sum(map(loss_of, rest)))} together"
        parts.append(text(fitted(said, 12, width - 8), 4, height + 10, class_="title"))
        height += 18
    label = f"Loss of the outputs with one layer quantized, {len(ranked)} layers, the most sensitive first."
    return picture(width, height, label, element("g", *parts, font_size=size, class_="bars"))


def ordered(shown: Sensitivity) -> list[Layer]:
    """The layers that were tried, the most sensitive first."""
    return sorted((one for one in shown.layers if one.loss is not None), key=lambda one: -loss_of(one))


def loss_of(one: Layer) -> float:
    """Its loss; 0 where it was not tried."""
    return one.loss or 0.0


def _said(one: Layer) -> str:
    return f"{words.loss(loss_of(one))} · {words.bits(one.bits)}"


def _bar(one: Layer, x: Axis, top: float, column: float, size: float) -> str:
    end, baseline = x.at(loss_of(one)), top + ROW / 2 + size * 0.34
    bar = element("rect", x=x.start, y=top + (ROW - THICK) / 2, width=max(end - x.start, 1.0), height=THICK, rx=1.5)
    name = text(fitted(one.layer, size, column - 8), column - 8, baseline, text_anchor="end", class_="name")
    value = text(_said(one), max(end, x.start + 1) + 6, baseline)
    kind = "floated" if one.bits == words.FLOAT else "few" if one.bits < 8 else "eight"
    return element("g", bar, name, value, class_=kind)
