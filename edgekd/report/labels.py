"""Labels beside marks, none over another: each takes the first free place around its mark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.report.svg import room


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    def inside(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Mark:
    """A disc to label, and what to write: several wordings, best first, each a tuple of lines."""

    x: float
    y: float
    radius: float
    wordings: tuple[tuple[str, ...], ...]

    @property
    def box(self) -> Box:
        return Box(self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)


@dataclass(frozen=True)
class Label:
    """A placed label. Its lines start at the left of the box (`side` 1), end at its right (−1) or are centred (0); `leader`
    says whether it lies so far off that it needs a line to its mark.
    """

    lines: tuple[str, ...]
    box: Box
    side: int
    leader: bool


DIRECTIONS = tuple(
    math.radians(angle) for angle in (0, 180, 90, 270, 45, 135, 315, 225, 20, 340, 160, 200, 65, 115, 245, 295)
)
GAPS = (5.0, 12.0, 22.0, 36.0, 54.0)


def place(marks: Sequence[Mark], bounds: Box, size: float, obstacles: Sequence[Box] = ()) -> list[Label]:
    """A label for each mark, in the order given, inside `bounds`, free of all marks, of what else is drawn and of the labels before it.

    A wording that fits nowhere gives way to the next; the last one takes the place with the least overlap.
    """
    discs = [*(mark.box for mark in marks), *obstacles]
    taken: list[Box] = []
    placed = []
    for mark in marks:
        tried = [label for wording in mark.wordings for label in _around(mark, wording, size)]
        free = (
            one for one in tried if one.box.inside(bounds) and not any(one.box.overlap(box) for box in [*discs, *taken])
        )
        label = next(free, None)
        if label is None:
            within = [one for one in tried if one.box.inside(bounds)] or tried
            label = min(within, key=lambda one: sum(one.box.overlap(box) for box in [*taken, *discs]))
        taken.append(label.box)
        placed.append(label)
    return placed


def _around(mark: Mark, lines: tuple[str, ...], size: float) -> list[Label]:
    width = max(room(line, size) for line in lines)
    height = size * 1.25 * len(lines)
    found = []
    for gap in GAPS:
        for angle in DIRECTIONS:
            across, down = math.cos(angle), math.sin(angle)
            reach = mark.radius + gap
            x = mark.x + across * reach + (width / 2) * _side(across)
            y = mark.y + down * reach + (height / 2) * _side(down)
            box = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            found.append(Label(lines, box, int(_side(across)), gap > GAPS[0]))
    return found


def _side(component: float) -> float:
    """1, 0 or −1: on which side of the mark the label's middle lies."""
    return 0.0 if abs(component) < 0.2 else math.copysign(1.0, component)
