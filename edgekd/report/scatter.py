"""Every candidate of a target in one picture: latency across, score up, bytes as the disc's area."""

from __future__ import annotations

import math
from dataclasses import replace
from html import escape
from statistics import median

from edgekd.report import words
from edgekd.report.figures import Latency
from edgekd.report.labels import Box, Label, Mark, place
from edgekd.report.schema import Candidate, Report, TargetReport
from edgekd.report.svg import Axis, element, picture, room, text

ORDER = {"chosen": 0, "reference": 1, "kept": 2, "rejected": 3, "simulated": 4, "built": 5, "failed": 6}


def kind(one: Candidate) -> str:
    """The colour's name: teacher, integer or float."""
    return "teacher" if one.version == "teacher" else "integer" if one.integer else "float"


def drawn(target: TargetReport) -> list[Candidate]:
    """The candidates that the picture can show: measured, and scored on the test split."""
    return [one for one in target.candidates if one.latency is not None and one.metric is not None]


def draw(report: Report, target: TargetReport, width: int, height: int) -> str:
    """The picture as SVG, laid out for a width in pixels; empty if there is nothing to show."""
    shown = sorted(drawn(target), key=lambda one: (one.name != target.nearest, ORDER[one.verdict]))
    if not shown:
        return ""
    narrow = width < 600
    size, largest = (11.0, 17.0) if narrow else (12.5, 25.0)
    y = _upward(shown, 26.0, height - 42.0, largest + 8)
    column = max(room(_tick(value, report.metric.name), 12) for value in y.ticks(5))
    frame = Box(column + 8, 26, width - 10, height - 42)
    x = _across(shown, frame, largest + 8)
    most = max(one.bytes or 1 for one in shown)
    marks = [_mark(one, target, x, y, max(3.0, largest * ((one.bytes or 1) / most) ** 0.5), report) for one in shown]
    ringed = [
        replace(mark, radius=mark.radius + 4 * (one.name == target.bundled_name))
        for one, mark in zip(shown, marks, strict=True)
    ]
    whiskers = [_whisker(one, mark, x) for one, mark in zip(shown, marks, strict=True)]
    labels = place(ringed, frame, size * 1.04, whiskers)
    parts = [_grid(x, y, frame, report.metric.name, narrow)]
    discs = sorted(zip(shown, marks, strict=True), key=lambda pair: -pair[1].radius)
    parts += [_disc(one, mark, x, target, report.metric.name) for one, mark in discs]
    parts += [
        _label(label, mark, size, one.name == target.bundled_name)
        for one, mark, label in zip(shown, marks, labels, strict=True)
    ]
    name = words.short(report.metric.name)
    said = f"Latency, {name} and size of {len(shown)} engines, as in the table below; {target.bundled_name or 'none'} is bundled."
    return picture(width, height, said, *parts)


def _latency(one: Candidate) -> Latency:
    assert one.latency is not None  # only drawn() candidates come here
    return one.latency


def _score(one: Candidate) -> float:
    assert one.metric is not None
    return one.metric


def floor(scores: list[float]) -> float:
    """The lowest score worth drawing to scale: what lies far below the others is drawn at the bottom edge.

    >>> floor([0.94, 0.93, 0.92]), round(floor([0.94, 0.93, 0.10]), 3)
    (0.92, 0.89)
    """
    best = max(scores)
    return max(min(scores), best - max(5 * (best - median(scores)), 0.05 * abs(best)))


def _across(shown: list[Candidate], frame: Box, inset: float) -> Axis:
    """Latency on a log axis, the ends `inset` pixels inside the frame."""
    times = [_latency(one).median for one in shown]
    fast, slow = min(times), max(times)
    if slow < fast * 1.05:
        fast, slow = fast / 1.1, slow * 1.1
    stretch = (slow / fast) ** (inset / (frame.right - frame.left - 2 * inset))
    return Axis(fast / stretch, slow * stretch, frame.left, frame.right, log=True)


def _upward(shown: list[Candidate], top: float, bottom: float, inset: float) -> Axis:
    """The score, the ends `inset` pixels inside the frame."""
    scores = [_score(one) for one in shown]
    low, high = floor(scores), max(scores)
    if high - low < 1e-6:
        low, high = low - 0.005 * max(abs(low), 0.1), high + 0.005 * max(abs(high), 0.1)
    span = (high - low) * inset / (bottom - top - 2 * inset)
    return Axis(low - span, high + span, bottom, top)


def _tick(value: float, metric: str) -> str:
    return f"{value * 100:.4g}%" if metric in words.SHARES else f"{value:.4g}"


def _mark(one: Candidate, target: TargetReport, x: Axis, y: Axis, radius: float, report: Report) -> Mark:
    number = str(target.candidates.index(one) + 1)
    numbered = f"{number} {one.name}"
    score, low = _score(one), floor([_score(other) for other in drawn(target)])
    second = f"{words.seconds(_latency(one).median)} · {words.size(one.bytes)}"
    if score < low:
        second += f" · at {words.score(score, report.metric.name)}"
    wordings = ((numbered, second), (numbered,), (number,))
    return Mark(x.at(_latency(one).median), y.at(max(score, low)), radius, wordings)


def _grid(x: Axis, y: Axis, frame: Box, metric: str, narrow: bool) -> str:
    parts = []
    for value in x.ticks(4 if narrow else 8):
        parts.append(element("line", x1=x.at(value), x2=x.at(value), y1=frame.top, y2=frame.bottom, class_="grid"))
        near = "end" if x.at(value) > frame.right - 22 else "middle"
        parts.append(text(words.tick(value), x.at(value), frame.bottom + 16, class_="tick", text_anchor=near))
    for value in y.ticks(5):
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y.at(value), y2=y.at(value), class_="grid"))
        parts.append(text(_tick(value, metric), frame.left - 6, y.at(value) + 4, class_="tick", text_anchor="end"))
    parts.append(text(f"↑ {words.short(metric)} on test", 2, 14, class_="title"))
    parts.append(
        text("← faster: median latency, log scale", frame.right, frame.bottom + 36, class_="title", text_anchor="end")
    )
    return "".join(parts)


def _disc(one: Candidate, mark: Mark, x: Axis, target: TargetReport, metric: str) -> str:
    latency = _latency(one)
    hint = f"{one.name}: {words.seconds(latency.median)}, {words.score(one.metric, metric)}, {words.size(one.bytes)}, {one.verdict}"
    parts = [element("title", escape(hint)), element("circle", cx=mark.x, cy=mark.y, r=mark.radius)]
    whisker = _whisker(one, mark, x)
    if whisker.right - whisker.left > 2 * mark.radius:
        parts.insert(1, element("line", x1=whisker.left, x2=whisker.right, y1=mark.y, y2=mark.y))
    if one.name == target.bundled_name:
        parts.append(element("circle", cx=mark.x, cy=mark.y, r=mark.radius + 3.5, class_="ring"))
    return element("g", *parts, class_=f"disc {kind(one)} {one.verdict}")


def _whisker(one: Candidate, mark: Mark, x: Axis) -> Box:
    """The median's 95% interval, as far as the axis goes."""
    low, high = max(_latency(one).low, x.low), min(_latency(one).high, x.high)
    return Box(x.at(low), mark.y - 1, x.at(high), mark.y + 1)


def _label(label: Label, mark: Mark, size: float, strong: bool) -> str:
    x, anchor = {
        1: (label.box.left, "start"),
        0: ((label.box.left + label.box.right) / 2, "middle"),
        -1: (label.box.right, "end"),
    }[label.side]
    leader = ""
    if label.leader:
        to_x, to_y = (
            min(max(mark.x, label.box.left), label.box.right),
            min(max(mark.y, label.box.top), label.box.bottom),
        )
        way = mark.radius / (math.hypot(to_x - mark.x, to_y - mark.y) or 1.0)
        start = {"x1": mark.x + (to_x - mark.x) * way, "y1": mark.y + (to_y - mark.y) * way}
        leader = element("line", **start, x2=to_x, y2=to_y, class_="leader")
    lines = [
        text(
            line,
            x,
            label.box.top + size * (0.98 + 1.25 * i),
            class_=("name strong" if strong else "name") if i == 0 else "fact",
        )
        for i, line in enumerate(label.lines)
    ]
    return leader + element("g", *lines, text_anchor=anchor, font_size=size)
