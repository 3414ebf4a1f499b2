"""How long each call took: a histogram for each engine on one axis, median and p90 marked. No sample is left out unsaid."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekd.report import words
from edgekd.report.scatter import kind
from edgekd.report.schema import Candidate, TargetReport
from edgekd.report.svg import Axis, element, fitted, picture, room, text

HIGHEST, BODY = 0.99, 0.90
"""The axis ends at the largest of the engines' quantiles of the first share, at most twice the largest of the second; what
lies beyond is counted at its end."""

FAR = 2.5
"""An engine whose median is more than this many times the next faster one's is beyond the axis, with all that are slower."""

BIN, TALL = 3.0, 32.0
"""Pixels: width of one bar, height of a histogram."""


def of_target(samples: Mapping[str, Sequence[float]], target: str, alone: bool) -> dict[str, Sequence[float]]:
    """The samples of one target by candidate: under "target/candidate", or under the candidate's name if there is one target."""
    prefix = f"{target}/"
    found = {name.removeprefix(prefix): values for name, values in samples.items() if name.startswith(prefix)}
    return {**(samples if alone else {}), **found}


@dataclass(frozen=True)
class _Layout:
    """Where text goes: beside the histograms, or (`stacked`) above them on one or two lines."""

    size: float
    start: float
    stacked: bool
    lines: int

    @property
    def above(self) -> float:
        return self.size * 1.35 * self.lines + 4 if self.stacked else 6.0

    @property
    def row(self) -> float:
        return self.above + TALL + (26 if self.stacked else 20)


def draw(target: TargetReport, samples: Mapping[str, Sequence[float]], limit: float | None, width: int) -> str:
    """The picture as SVG, laid out for a width in pixels; empty without samples. `limit` is the budget's p90 in seconds."""
    shown = [one for one in target.candidates if one.latency is not None and samples.get(one.name)]
    shown.sort(key=_median)
    if not shown:
        return ""
    ordered = {one.name: sorted(samples[one.name]) for one in shown}
    layout = _layout(shown, width)
    x = _axis([ordered[one.name] for one in _near(shown)], limit, layout.start, width - 12)
    top = 26.0
    bottom = top + layout.row * len(shown)
    parts = [_grid(x, top, bottom, max(3, int((x.end - x.start) / 85)))]
    if limit is not None and x.low < limit < x.high:
        parts.append(_limit(limit, x, top, bottom))
    for index, one in enumerate(shown):
        place = top + layout.row * index
        parts.append(_row(one, ordered[one.name], x, place, layout, one.name == target.bundled_name))
    label = f"Latency histograms of {len(shown)} engines, fastest first; medians and p90 as in the table below."
    return picture(width, bottom + 44, label, *parts)


def _layout(shown: Sequence[Candidate], width: int) -> _Layout:
    size = 12.5 if width >= 600 else 11.0
    column = max(room(said, size * 1.05) for one in shown for said in (one.name, _facts(one)))
    if column <= width * 0.32:
        return _Layout(size, column + 14, stacked=False, lines=2)
    beside = all(room(one.name, size * 1.05) + room(_facts(one), size) + 16 < width - 18 for one in shown)
    return _Layout(size, 6.0, stacked=True, lines=1 if beside else 2)


def _median(one: Candidate) -> float:
    assert one.latency is not None  # only measured engines are shown
    return one.latency.median


def _near(shown: Sequence[Candidate]) -> Sequence[Candidate]:
    """The engines that share the axis, by median: all before the first gap."""
    gap = next((i for i in range(1, len(shown)) if _median(shown[i]) > FAR * _median(shown[i - 1])), len(shown))
    return shown[:gap]


def _axis(ordered: Sequence[Sequence[float]], limit: float | None, start: float, end: float) -> Axis:
    low = min(values[0] for values in ordered) * 0.97
    high, body = (max(values[int(share * (len(values) - 1))] for values in ordered) for share in (HIGHEST, BODY))
    high = min(high * 1.05, 2 * body)
    if limit is not None and high < limit < 2 * high:
        high = limit * 1.08
    return Axis(low, high, start, end, log=True)


def _facts(one: Candidate) -> str:
    assert one.latency is not None  # only measured engines are shown
    return f"{words.seconds(one.latency.median)} · p90 {words.seconds(one.latency.p90)}"


def _grid(x: Axis, top: float, bottom: float, most: int) -> str:
    parts = []
    for value in x.ticks(most):
        parts.append(element("line", x1=x.at(value), x2=x.at(value), y1=top, y2=bottom, class_="grid"))
        near = "start" if x.at(value) < 24 else "end" if x.at(value) > x.end - 14 else "middle"
        parts.append(text(words.tick(value), x.at(value), bottom + 16, class_="tick", text_anchor=near))
    parts.append(text("← faster: a call's latency, log scale", x.end, bottom + 36, class_="title", text_anchor="end"))
    return "".join(parts)


def histogram(values: Sequence[float], x: Axis) -> list[int]:
    """Samples in each bar of the axis, by sorted values; those below the axis go into the first, those beyond it into none."""
    bars = max(1, round((x.end - x.start) / BIN))
    edges = [x.low * (x.high / x.low) ** (i / bars) for i in range(1, bars + 1)]
    ends = [bisect_right(values, edge) for edge in edges]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def _row(one: Candidate, values: Sequence[float], x: Axis, top: float, layout: _Layout, strong: bool) -> str:
    assert one.latency is not None
    baseline = top + layout.above + TALL
    parts = [_words(one, x, top, baseline, layout, "name strong" if strong else "name")]
    counts = histogram(values, x)
    parts.append(element("path", d=_outline(counts, x, baseline)))
    parts.append(element("line", x1=x.start, x2=x.end, y1=baseline, y2=baseline, class_="base"))
    for value, height, name in ((one.latency.median, TALL + 2, "median"), (one.latency.p90, TALL * 0.5, "p90")):
        if value is not None and x.low <= value <= x.high:
            parts.append(
                element("line", x1=x.at(value), x2=x.at(value), y1=baseline - height, y2=baseline + 3, class_=name)
            )
    beyond = len(values) - sum(counts)
    if beyond:
        said = f"{'all' if beyond == len(values) else beyond} beyond, to {words.seconds(values[-1])} →"
        parts.append(text(said, x.end, baseline + 13, class_="beyond", text_anchor="end"))
    return element("g", *parts, class_=f"spread {kind(one)} {one.verdict}")


def _words(one: Candidate, x: Axis, top: float, baseline: float, layout: _Layout, names: str) -> str:
    size = layout.size
    if not layout.stacked:
        spots = ((0.0, baseline - 18, "start"), (0.0, baseline - 2, "start"))
    elif layout.lines == 1:
        spots = ((x.start, top + size, "start"), (x.end, top + size, "end"))
    else:
        spots = ((x.start, top + size, "start"), (x.start, top + size * 2.35, "start"))
    said = (fitted(one.name, size * 1.05, x.end - x.start if layout.stacked else x.start), _facts(one))
    lines = [
        text(line, across, down, text_anchor=anchor, class_=name)
        for line, (across, down, anchor), name in zip(said, spots, (names, "fact"), strict=True)
    ]
    return element("g", *lines, font_size=size)


def _outline(counts: Sequence[int], x: Axis, baseline: float) -> str:
    """The histogram's outline, its highest bar `TALL` pixels high."""
    most, step = max(counts) or 1, (x.end - x.start) / len(counts)
    path, before = [f"M{x.start:.1f} {baseline:.1f}"], 0
    for index, count in enumerate(counts):
        if count != before:
            path.append(f"H{x.start + index * step:.1f}V{baseline - TALL * count / most:.1f}")
        before = count
    return "".join([*path, f"H{x.end:.1f}V{baseline:.1f}Z"])


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
