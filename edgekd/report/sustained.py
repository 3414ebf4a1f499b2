"""A sustained run as a picture: time across, latency up, the medians of blocks as dots and those of windows as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd.report.steps import STYLE
from edgekd.report.svg import Axis, element, fitted, text
from edgekd.units import format_seconds

if TYPE_CHECKING:
    from edgekd.latency.sustained import Sustained

WIDTH, HEIGHT, DOTS = 720, 300, 60
"""Pixels; at most so many dots a window, the blocks' quantiles beyond."""


def draw(found: Sustained, name: str) -> str:
    """The whole picture as an SVG file. Below each window stands the chip's temperature, where it is known."""
    windows = found.windows
    length = windows[1].start - windows[0].start
    shown = [sorted(w.blocks)[:: max(1, len(w.blocks) // DOTS)] for w in windows]
    low, high = min(map(min, shown)), max(sorted(dots)[int(0.99 * (len(dots) - 1))] for dots in shown)
    x = Axis(0, length * len(windows), 72, WIDTH - 16)
    y = Axis(max(0.0, low - 0.1 * (high - low) - 0.01 * high), high * 1.01, HEIGHT - 56, 40)
    parts = [element("style", STYLE), element("rect", width=WIDTH, height=HEIGHT, fill="#ffffff")]
    parts.append(text(fitted(f"{name}, without a pause", 12.5, WIDTH - 24), 12, 20, class_="name"))
    for value in y.ticks(4):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y.at(value), y2=y.at(value), class_="grid"))
        parts.append(text(format_seconds(value), x.start - 6, y.at(value) + 4, text_anchor="end"))
    for window, dots in zip(windows, shown, strict=True):
        start = window.start
        for index, block in enumerate(dots):
            if block <= y.high:
                place = x.at(start + length * (0.1 + 0.8 * (index + 0.5) / len(dots)))
                parts.append(element("circle", cx=place, cy=y.at(block), r=1.4, fill="#3f5fa8", opacity=0.35))
        ends = {"x1": x.at(start), "x2": x.at(start + length), "y1": y.at(window.median), "y2": y.at(window.median)}
        parts.append(element("line", **ends, stroke="#a4332a", stroke_width=2.0))
        middle = x.at(start + length / 2)
        parts.append(text(format_seconds(start + length), middle, HEIGHT - 36, text_anchor="middle"))
        if window.temperature is not None:
            parts.append(text(f"{window.temperature:.0f} °C", middle, HEIGHT - 20, text_anchor="middle"))
    label = f"Latency of {name} over {format_seconds(length * len(windows))} without a pause"
    said = {
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "xmlns": "http://www.w3.org/2000/svg",
        "role": "img",
        "aria_label": label,
    }
    return element("svg", *parts, width=WIDTH, height=HEIGHT, **said) + "\n"
