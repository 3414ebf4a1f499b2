"""How long each call took: a histogram for each engine on one axis, median and p90 marked. No sample is left out unsaid."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from edgekd.report import words
from edgekd.report.scatter import kind
from edgekd.report.schema import Candidate, TargetReport
from edgekd.report.svg import Axis, element, fitted, picture, room, text

HIGHEST = 0.99
"""The axis ends at the largest of the engines' quantiles of this share; what lies beyond is counted at its end."""

BIN = 3.0
"""Pixels of one bar."""


def of_target(samples: Mapping[str, Sequence[float]], target: str, alone: bool) -> dict[str, Sequence[float]]:
    """The samples of one target by candidate: under "target/candidate", or under the candidate's name if there is one target."""
    prefix = f"{target}/"
    found = {name.removeprefix(prefix): values for name, values in samples.items() if name.startswith(prefix)}
    return {**(samples if alone else {}), **found}


def draw(target: TargetReport, samples: Mapping[str, Sequence[float]], limit: float | None, width: int) -> str:
    """The picture as SVG, laid out for a width in pixels; empty without samples. `limit` is the budget's p90 in seconds."""
    shown = [one for one in target.candidates if one.latency is not None and samples.get(one.name)]
    shown.sort(key=lambda one: one.latency.median if one.latency else 0.0)
    if not shown:
        return ""
    size = 12.5 if width >= 600 else 11.0
    ordered = {one.name: sorted(samples[one.name]) for one in shown}
    column = max(room(said, size) for one in shown for said in (one.name, _facts(one)))
    stacked = column > width * 0.32
    start = 6.0 if stacked else column + 14
    lines = 2 if not stacked or any(not _beside(one, size, width - 18) for one in shown) else 1
    row = 50.0 + (size * 1.35 * lines if stacked else 0)
    x = _axis(ordered, limit, start, width - 12)
    top = 26.0
    bottom = top + row * len(shown)
    parts = [_grid(x, top, bottom, max(3, int((x.end - x.start) / 85)))]
    for index, one in enumerate(shown):
        baseline = top + row * (index + 1) - 6
        parts.append(_row(one, ordered[one.name], x, baseline, size, stacked, lines, one.name == target.bundled_name))
    if limit is not None and x.low < limit < x.high:
        parts.append(_limit(limit, x, top, bottom))
    label = f"Latency histograms of {len(shown)} engines, fastest first; medians and p90 as in the table below."
    return picture(width, bottom + 44, label, *parts)


def _axis(ordered: Mapping[str, Sequence[float]], limit: float | None, start: float, end: float) -> Axis:
    low = min(values[0] for values in ordered.values()) * 0.97
    high = max(values[min(int(HIGHEST * len(values)), len(values) - 1)] for values in ordered.values()) * 1.05
    if limit is not None and high < limit < 3 * high:
        high = limit * 1.08
    return Axis(low, high, start, end, log=True)


def _facts(one: Candidate) -> str:
    assert one.latency is not None  # only measured engines are shown
    return f"{words.seconds(one.latency.median)} · p90 {words.seconds(one.latency.p90)}"


def _grid(x: Axis, top: float, bottom: float, most: int) -> str:
    parts = []
    for value in x.ticks(most):
        parts.append(element("line", x1=x.at(value), x2=x.at(value), y1=top, y2=bottom, class_="grid"))
        near = "start" if x.at(value) < 24 else "end" if x.at(value) > x.end - 12 else "middle"
        parts.append(text(words.tick(value), x.at(value), bottom + 16, class_="tick", text_anchor=near))
    parts.append(text("← faster: a call's latency, log scale", x.end, bottom + 36, class_="title", text_anchor="end"))
    return "".join(parts)


def histogram(values: Sequence[float], x: Axis) -> list[int]:
    """Samples in each bar of the axis, by sorted values; those below the axis go into the first, those beyond it into none."""
    bars = max(1, round((x.end - x.start) / BIN))
    edges = [x.low * (x.high / x.low) ** (i / bars) for i in range(1, bars + 1)]
    ends = [bisect_right(values, edge) for edge in edges]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def _beside(one: Candidate, size: float, width: float) -> bool:
    """Whether name and facts fit on one line."""
    return room(one.name, size) + room(_facts(one), size) + 16 < width


def _row(
    one: Candidate,
    values: Sequence[float],
    x: Axis,
    baseline: float,
    size: float,
    stacked: bool,
    lines: int,
    strong: bool,
) -> str:
    assert one.latency is not None
    tall = 30.0
    names = "name strong" if strong else "name"
    name = fitted(one.name, size, x.end - x.start if stacked else x.start)
    if not stacked:
        labels = [text(name, 0, baseline - 18, class_=names), text(_facts(one), 0, baseline - 2, class_="fact")]
    elif lines == 1:
        labels = [text(name, x.start, baseline - tall - 8, class_=names)]
        labels.append(text(_facts(one), x.end, baseline - tall - 8, class_="fact", text_anchor="end"))
    else:
        labels = [text(name, x.start, baseline - tall - 8 - size * 1.35, class_=names)]
        labels.append(text(_facts(one), x.start, baseline - tall - 8, class_="fact"))
    counts = histogram(values, x)
    most = max(counts) or 1
    step = (x.end - x.start) / len(counts)
    path, before = [f"M{x.start:.1f} {baseline:.1f}"], 0
    for index, count in enumerate(counts):
        if count != before:
            left = x.start + index * step
            path.append(f"H{left:.1f}V{baseline - tall * count / most:.1f}")
        before = count
    path.append(f"H{x.end:.1f}V{baseline:.1f}Z")
    parts = [element("g", *labels, font_size=size), element("path", d="".join(path))]
    parts.append(element("line", x1=x.start, x2=x.end, y1=baseline, y2=baseline, class_="base"))
    median = x.at(one.latency.median)
    parts.append(element("line", x1=median, x2=median, y1=baseline - tall - 3, y2=baseline + 3, class_="median"))
    if one.latency.p90 is not None and one.latency.p90 <= x.high:
        p90 = x.at(one.latency.p90)
        parts.append(element("line", x1=p90, x2=p90, y1=baseline - tall * 0.55, y2=baseline + 3, class_="p90"))
    beyond = len(values) - sum(counts)
    if beyond:
        said = f"{beyond} beyond, to {words.seconds(values[-1])} →"
        parts.append(text(said, x.end, baseline - 5, class_="beyond", text_anchor="end"))
    return element("g", *parts, class_=f"spread {kind(one)} {one.verdict}")


def _limit(limit: float, x: Axis, top: float, bottom: float) -> str:
    at = x.at(limit)
    said = f"p90 limit {words.tick(limit)}"
    anchor = "end" if at + room(said, 11) / 2 > x.end else "start" if at - room(said, 11) / 2 < 0 else "middle"
    return element(
        "g",
        element("line", x1=at, x2=at, y1=top - 4, y2=bottom),
        text(said, at, top - 10, text_anchor=anchor),
        class_="limit",
    )
