"""The drawings' arithmetic: axes, histograms, labels."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report import bars, distribution
from edgekd.report.figures import Layer
from edgekd.report.labels import Box, Mark, place
from edgekd.report.schema import Sensitivity
from edgekd.report.svg import Axis, element, fitted, room, text


def test_an_axis_maps_its_ends_and_its_middle() -> None:
    """On a log axis from 1 to 100, 10 is half way."""
    axis = Axis(1, 100, 50, 150, log=True)
    assert [axis.at(value) for value in (1, 10, 100)] == [50, 100, 150]
    assert Axis(0, 4, 100, 0).at(1) == 75


@given(st.floats(1e-6, 1.0), st.floats(1.01, 1e4), st.integers(3, 10))
def test_ticks_are_round_and_inside(low: float, factor: float, most: int) -> None:
    axis = Axis(low, low * factor, 0, 500, log=True)
    ticks = axis.ticks(most)
    assert len(ticks) <= most + 2
    for tick in ticks:
        assert low * (1 - 1e-6) <= tick <= low * factor * (1 + 1e-6)


def test_a_histogram_counts_every_sample_on_the_axis() -> None:
    """Two bars of 3 pixels on a log axis from 1 to 4: up to 2, up to 4; 0.5 is below and counts as the first, 5 is beyond."""
    axis = Axis(1, 4, 0, 6, log=True)
    assert distribution.histogram([0.5, 1.0, 1.5, 2.0, 2.5, 3.9, 5.0], axis) == [4, 2]


def test_samples_of_several_targets_are_kept_apart() -> None:
    samples = {"a": [1.0], "host/a": [2.0], "pi/a": [3.0]}
    assert distribution.of_target(samples, "pi", alone=False) == {"a": [3.0]}
    assert distribution.of_target({"a": [1.0]}, "pi", alone=True) == {"a": [1.0]}
    assert distribution.of_target({"a": [1.0]}, "pi", alone=False) == {}


points = st.lists(st.tuples(st.floats(60, 740), st.floats(40, 360), st.floats(3, 20)), min_size=1, max_size=6)


@given(points)
def test_labels_lie_inside_and_apart_where_there_is_room(drawn: list[tuple[float, float, float]]) -> None:
    marks = [Mark(x, y, radius, (("label", "two lines"), ("one",), ("1",))) for x, y, radius in drawn]
    bounds = Box(0, 0, 800, 400)
    labels = place(marks, bounds, 12)
    assert all(label.box.inside(bounds) for label in labels)
    spread = all(math.dist(a[:2], b[:2]) > 120 for i, a in enumerate(drawn) for b in drawn[:i])
    if spread:
        boxes = [label.box for label in labels]
        assert not any(a.overlap(b) for i, a in enumerate(boxes) for b in [*boxes[:i], *(m.box for m in marks)])


def test_a_label_avoids_what_else_is_drawn() -> None:
    mark = Mark(100, 100, 5, (("name",),))
    right = place([mark], Box(0, 0, 200, 200), 12)[0]
    moved = place([mark], Box(0, 0, 200, 200), 12, [Box(106, 90, 200, 110)])[0]
    assert right.side == 1
    assert moved.side == -1


@pytest.mark.parametrize("value", ['a<b>&"c', "x' onload='y"])
def test_svg_escapes_text_and_attributes(value: str) -> None:
    written = text(value, 0, 0, class_=value)
    assert "<b>" not in written
    assert written.count('"') == 6
    assert "onload='" not in written


def test_numbers_are_short() -> None:
    assert element("line", x1=1.0, x2=-0.01, y1=2.345, y2=None) == '<line x1="1" x2="0" y1="2.3"/>'


def test_text_that_is_too_long_says_so() -> None:
    name = "a-backend-with-a-long-name"
    short = fitted(name, 12, 80)
    assert short.endswith("…")
    assert room(short, 12) <= 80
    assert fitted(name, 12, 1000) == name


def test_bars_are_sorted_and_as_long_as_their_losses() -> None:
    """Of 4, 2 and 0 nats: the second bar is half as long as the first, the third a pixel, a layer that was not tried has none."""
    layers = [("a", 2.0, 8), ("b", 4.0, 32), ("c", 0.0, 4), ("d", None, 32)]
    shown = Sensitivity(
        version="q",
        measure="KL",
        samples=8,
        layers=tuple(Layer(layer=name, loss=loss, bits=bits) for name, loss, bits in layers),
    )
    drawn = bars.draw(shown, 880)
    assert re.findall(r'class="name">(\w)<', drawn) == ["b", "a", "c"]
    widths = [float(found) for found in re.findall(r'<rect [^>]*?width="([\d.]+)"', drawn)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[2] == 1
    assert re.findall(r'<g class="(\w+)"><rect', drawn) == ["floated", "eight", "few"]
    assert bars.draw(shown.model_copy(update={"layers": ()}), 880) == ""
