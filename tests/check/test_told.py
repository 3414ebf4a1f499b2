"""Operators that are blamed, rows, pictures, and what Markdown and XML must not break on."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgekd.check import junit, markdown, suite, told
from edgekd.check.gate import Asked, Result
from edgekd.check.gates import judge
from edgekd.check.operators import Operator, blamed, difference
from edgekd.check.pair import Side
from edgekd.check.session import Session
from edgekd.check.verdict import Look
from edgekd.latency.statistics import Ratio


def look(point: float, p: float, state: str = "undecided") -> Look:
    ratio = Ratio(point, point - 0.03, point + 0.03)
    return Look(1, 6, 1e-3, point * 1e-3, ratio, Ratio(1.0, 0.99, 1.01), 1.05, p, state)  # type: ignore[arg-type]


def result(name: str, point: float = 1.0, p: float = 1.0, verdict: str = "pass", said: str = "why") -> Result:
    state = "undecided" if verdict == "inconclusive" else verdict
    session = Session(verdict, said, "wait", (look(point, p, state),), None, {}, 1.0)  # type: ignore[arg-type]
    side = Side(Path("new"), {"signature": {}, "files": {}}, {})
    asked = Asked(Path("new"), Path("old"), name)
    gate = judge("bytes", 1000.0, 1500.0, 1.0)
    return Result(asked, side, session, (gate,), None, (), 2.0, verdict)  # type: ignore[arg-type]


def test_operators_are_joined_by_shape_then_by_kind() -> None:
    old = [{"operator": "Conv 1×8", "nodes": 1, "seconds": 1e-4}, {"operator": "Relu 1×8", "nodes": 1, "seconds": 1e-5}]
    new = [{"operator": "Conv 1×16", "nodes": 1, "seconds": 3e-4}, {"operator": "Add 1×8", "nodes": 2, "seconds": 2e-5}]
    found = difference(old, new)
    assert [(one.name, one.baseline_nodes, one.candidate_nodes) for one in found] == [
        ("Conv 1×8 → 1×16", 1, 1),
        ("Add 1×8", 0, 2),
        ("Relu 1×8", 1, 0),
    ]
    assert [one.added for one in found] == pytest.approx([2e-4, 2e-5, -1e-5])
    assert [one.name for one in blamed(found)] == ["Conv 1×8 → 1×16"]
    assert told.culprits(found) == ["Conv 1×8 → 1×16: 100 µs → 300 µs a call, 1 → 1 node(s)"]
    assert blamed([Operator("Conv", 1, 1, 2.0, 1.0)]) == []


def test_holm_over_a_suite_rejects_what_its_looser_levels_allow() -> None:
    """Three p-values: 0.005 ≤ 0.025/3; 0.012 ≤ 0.025/2, which Bonferroni would not reject; 0.03 > 0.025."""
    before = [result("a", 1.2, 0.005, "regressed"), result("b", 1.1, 0.012, "inconclusive"), result("c", 1.06, 0.03)]
    assert [r.verdict for r in suite.corrected(before)] == ["regressed", "regressed", "pass"]
    assert [r.verdict for r in suite.corrected([before[2], result("b", 1.1, 0.02, "inconclusive")])] == [
        "pass",
        "inconclusive",
    ]


def test_markup_in_what_is_told_stays_text() -> None:
    nasty = 'a|b</testcase><script>"&\x00\x1b`*'
    found = result(nasty, 1.2, 0.0, "regressed", said=nasty)
    (one,) = ElementTree.fromstring(junit.render([found]))  # noqa: S314
    assert one.get("name") == nasty.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert "<script>" not in markdown.render([found])
    assert "\\|" in markdown.render([found])


def test_rows_say_change_and_tolerance_in_the_signals_unit() -> None:
    latency, control, size = told.rows(result("x", 1.1, 0.5, "inconclusive"))
    assert latency.cells == ("latency", "1.00 ms", "1.10 ms", "1.100× (1.07–1.13)", "1.05×", "inconclusive")
    assert control.cells[3:] == ("1.000× (0.99–1.01)", "1.05×", "fits")
    assert size.cells == ("bytes", "1.00 kB", "1.50 kB", "+50.0%", "+100%", "pass")
    assert told.sentence(result("x", 1.1, 0.5, "inconclusive")) == "why"
    assert told.advice(result("x", 1.1, 0.5, "inconclusive")) == "wait"
    assert told.advice(result("x")) == ""


@pytest.mark.parametrize("ratio", [(0.5, 0.4, 0.6), (1.0, 1.0, 1.0), (1.05, 1.0, 1.1), (3.0, 1.01, 9.0)])
def test_pictures_hold_the_point_whatever_the_interval(ratio: tuple[float, float, float]) -> None:
    found = Look(1, 6, 1e-3, 1e-3, Ratio(*ratio), Ratio(1, 1, 1), 1.05, 0.0, "pass")
    drawn = told.picture(found)
    assert len(drawn) == told.WIDTH and drawn.count("●") == 1
