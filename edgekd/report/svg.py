"""SVG as text: elements, axes with round ticks, and how much room a text takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

NARROW = frozenset("fijltrI.,:;'|!()[] ·")
BROAD = frozenset("mwMW@%×—")


def element(tag: str, *children: str, **attributes: object) -> str:
    """One element. Attribute values are escaped, children are markup already; `class_` is class, `stroke_width` stroke-width.

    >>> element("text", escape("a<b"), x=1.25, class_="name")
    '<text x="1.2" class="name">a&lt;b</text>'
    """
    written = "".join(
        f' {k.rstrip("_").replace("_", "-")}="{_value(v)}"' for k, v in attributes.items() if v is not None
    )
    return f"<{tag}{written}>{''.join(children)}</{tag}>" if children else f"<{tag}{written}/>"


def _value(value: object) -> str:
    if isinstance(value, float):
        return (
            f"{value:.1f}".removesuffix(".0").replace("-0", "0")
            if abs(value) < 0.05
            else f"{value:.1f}".removesuffix(".0")
        )
    return escape(str(value))


def text(content: str, x: float, y: float, **attributes: object) -> str:
    """A text element; the content is escaped."""
    return element("text", escape(content), x=x, y=y, **attributes)


def picture(width: float, height: float, label: str, *children: str) -> str:
    """A whole picture that scales down with its container, never up. `label` says what it shows to who cannot see it."""
    view = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=view, width=width, height=height, role="img", aria_label=label)


def room(content: str, size: float) -> float:
    """Room that a text takes in pixels at a font size: rather too much, since each reader's font is another."""
    return size * sum(_broadness(letter) for letter in content)


def _broadness(letter: str) -> float:
    if ord(letter) > 0x2E80:
        return 1.05
    return 0.4 if letter in NARROW else 0.98 if letter in BROAD else 0.72 if letter.isupper() else 0.64


def fitted(content: str, size: float, most: float) -> str:
    """The text, its end replaced by an ellipsis where it would take more than `most` pixels."""
    if room(content, size) <= most:
        return content
    while content and room(f"{content}…", size) > most:
        content = content[:-1]
    return f"{content}…"


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto pixels from `start` to `end`; by their logarithm if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        warp: Callable[[float], float] = math.log if self.log else float
        low, high = warp(self.low), warp(self.high)
        share = (warp(value) - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * share

    def ticks(self, most: int) -> list[float]:
        """At most about `most` round values between the ends: 1, 2, 5 a decade on a long log axis, else evenly spaced.

        >>> Axis(1, 1000, 0, 1, log=True).ticks(10)
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]
        >>> Axis(0.921, 0.946, 0, 1).ticks(4)
        [0.93, 0.94]
        """
        if self.log and self.high / self.low >= 5:
            for digits in ((1, 2, 5), (1, 3), (1,)):
                exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                found = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) <= most:
                    return found
            return found[:: math.ceil(len(found) / most)]
        rough = (self.high - self.low) / max(most, 1)
        if rough <= 0:
            return [self.low]
        scale = 10 ** math.floor(math.log10(rough))
        step = next(scale * digit for digit in (1, 2, 5, 10) if scale * digit >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]
