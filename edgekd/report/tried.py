"""The students that a search tried, in one picture: latency across, similarity to the teacher up. Not of blocks: a table tells."""

from __future__ import annotations

from html import escape

from edgekd.report import words
from edgekd.report.figures import Search, Tried
from edgekd.report.svg import Axis, element, picture, room, text

HIGH = 340
ORDER = {"failed": 0, "too slow": 1, "kept": 2, "stopped": 3, "trained": 4, "chosen": 5}
"""What is drawn last lies on top."""


def draw(shown: Search, width: int) -> str:
    """The picture as SVG for a width in pixels; empty where no student was measured."""
    known = [one for one in shown.tried if one.latency is not None and one.score is not None]
    if not known or shown.allowed is None or shown.kind == "blocks":
        return ""
    times = [*map(_latency, known), shown.allowed]
    scores = [_score(one) for one in known]
    spread = (max(scores) - min(scores)) or max(abs(scores[0]), 1e-3) * 0.1
    y = Axis(min(scores) - spread * 0.08, max(scores) + spread * 0.08, HIGH - 42.0, 26.0)
    column = max(room(_tick(value), 12) for value in y.ticks(5)) + 8
    x = Axis(min(times) / 1.12, max(times) * 1.12, column, width - 10.0, log=True)
    parts = [_grid(x, y, width < 600), _limit(x.at(shown.allowed), y)]
    parts += [_disc(one, x, y) for one in sorted(known, key=lambda one: ORDER[one.verdict])]
    said = f"Latency and similarity to the teacher of {len(known)} students, as in the table below."
    return picture(width, HIGH, said, *parts)


def _latency(one: Tried) -> float:
    assert one.latency is not None  # only what was measured is drawn
    return one.latency


def _score(one: Tried) -> float:
    assert one.score is not None
    return one.score


def _tick(value: float) -> str:
    return f"{value:.3g}".replace("-", words.MINUS)


def _grid(x: Axis, y: Axis, narrow: bool) -> str:
    parts = []
    for value in x.ticks(4 if narrow else 8):
        parts.append(element("line", x1=x.at(value), x2=x.at(value), y1=y.end, y2=y.start, class_="grid"))
        near = "end" if x.at(value) > x.end - 22 else "middle"
        parts.append(text(words.tick(value), x.at(value), y.start + 16, class_="tick", text_anchor=near))
    for value in y.ticks(5):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y.at(value), y2=y.at(value), class_="grid"))
        parts.append(text(_tick(value), x.start - 6, y.at(value) + 4, class_="tick", text_anchor="end"))
    parts.append(text("↑ similarity to the teacher", 2, 14, class_="title"))
    parts.append(text("← faster: median latency, log scale", x.end, y.start + 36, class_="title", text_anchor="end"))
    return "".join(parts)


def _limit(place: float, y: Axis) -> str:
    return element("g", element("line", x1=place, x2=place, y1=y.end, y2=y.start), class_="limit")


def _disc(one: Tried, x: Axis, y: Axis) -> str:
    place, height = x.at(_latency(one)), y.at(_score(one))
    hint = f"{one.what}: {words.seconds(one.latency)}, similarity {_tick(_score(one))}, {one.verdict}"
    parts = [element("title", escape(hint))]
    if one.low is not None and one.high is not None:
        ends = [x.at(min(max(end, x.low), x.high)) for end in (one.low, one.high)]
        parts.append(element("line", x1=ends[0], x2=ends[1], y1=height, y2=height))
    parts.append(element("circle", cx=place, cy=height, r=5.0))
    if one.verdict == "chosen":
        parts.append(element("circle", cx=place, cy=height, r=8.5, class_="ring"))
    full = one.validation is not None
    return element("g", *parts, class_=f"disc {'integer' if full else 'float'}{'' if full else ' rejected'}")
