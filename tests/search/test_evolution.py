"""The evolution on a simulated device whose latencies and scores are known: it finds the best, and survives a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from edgekd.errors import UserError
from edgekd.latency.table import Kind, Measured
from edgekd.progress import Progress
from edgekd.search.evolution import Assessor, Candidate, evolve, fastest
from edgekd.search.space import Variants, space_of

pytest.importorskip("optuna", reason="pip install 'edgekd[search]'")

FAST, SLOW = Kind("fast", "float32"), Kind("slow", "float32")
SPACE = space_of({"width": {"low": 1, "high": 12}, "depth": [1, 2, 3, 4]})
OWN = {"width": 2, "depth": 1}


def seconds(arguments: Any) -> float:
    return 1e-6 * arguments["width"] * arguments["depth"]


def score(arguments: Any) -> float:
    """Best at width 9, depth 3, which takes 27 µs; within 12 µs the best is width 6, depth 2."""
    return -(((arguments["width"] - 9) / 9) ** 2) - ((arguments["depth"] - 3) / 3) ** 2


class Device:
    """Two kinds of engines, one twice as slow; width 12 cannot be built, depth 4 not compiled."""

    def __init__(self, die_in: int = 0) -> None:
        self.races: list[list[Any]] = []
        self.die_in = die_in

    def make(self, arguments: Any, draw: int) -> nn.Module:
        if arguments["width"] == 12:
            raise ValueError("width 12\nis not supported")
        return nn.Linear(arguments["width"], arguments["depth"], bias=False)

    def race(self, plans: Sequence[Any], label: str) -> tuple[list[dict[Kind, Measured]], dict[int, str]]:
        self.races.append(list(plans))
        if len(self.races) == self.die_in:
            raise KeyboardInterrupt
        drift = 1.0 + 0.1 * len(self.races)  # each race on a slower machine: only shares of the first plan tell
        whole = seconds(plans[0])
        found = []
        for plan in plans:
            share = seconds(plan) / whole
            rows = {FAST: Measured(drift * seconds(plan), share, share * 0.99, share * 1.01)}
            rows[SLOW] = Measured(2 * drift * seconds(plan), share, share, share)
            found.append({} if plan["depth"] == 4 else rows)
        return found, {i: "float32 on fast: no" for i, plan in enumerate(plans) if plan["depth"] == 4}

    def suits(self, arguments: Any) -> float:
        self.make(arguments, 1)
        return score(arguments)


def evolved(folder: Path, device: Device, **changes: Any) -> list[Candidate]:
    folder.mkdir(exist_ok=True)
    variants = Variants(OWN, (FAST, SLOW), device.make, device.race)
    assess = Assessor(variants, OWN, device.suits, folder, Progress(quiet=True))
    sizes = {"population": 8, "generations": 5, "seed": 3, **changes}
    return evolve(SPACE, OWN, assess, lambda: assess.allowed(lambda whole: 6 * whole), **sizes)


def test_it_begins_with_the_recipes_own_and_climbs_to_the_best_within_the_budget(tmp_path: Path) -> None:
    device = Device()
    found = evolved(tmp_path / "work", device)
    assert found[0].arguments == OWN and found[0].parameters == 2
    assert len({json.dumps(one.arguments) for one in found}) == len(found) < 8 * 5 + 8
    able = [one for one in found if one.seconds is not None]
    for one in able:  # by hand, in the first race's seconds, on the faster of the two kinds
        assert one.seconds == pytest.approx(1.1 * seconds(one.arguments))
        assert one.engine == "float32 on fast" and one.score == score(one.arguments)
        assert one.low == pytest.approx(0.99 * one.seconds) or one.arguments == OWN
    kept = [one for one in able if seconds(one.arguments) <= 12.001e-6]
    everything = [{"width": w, "depth": d} for w in SPACE["width"] for d in SPACE["depth"] if w < 12 and d < 4]
    best = max((one for one in everything if seconds(one) <= 12.001e-6), key=score)
    assert best == {"width": 6, "depth": 2}
    assert max(kept, key=lambda one: one.score or -9).arguments == best
    assert all(plans[0] == OWN for plans in device.races), "every race has the recipe's own student to compare with"


def test_what_cannot_be_made_is_told_and_costs_no_other(tmp_path: Path) -> None:
    found = evolved(tmp_path / "work", Device())
    for one in found:
        if one.arguments["width"] == 12:
            assert one.failed == "ValueError: width 12" and one.seconds is None
        elif one.arguments["depth"] == 4:
            assert one.failed == "float32 on fast: no" and one.score is not None
        else:
            assert not one.failed
    assert any(one.arguments["width"] == 12 for one in found) and any(one.arguments["depth"] == 4 for one in found)


def test_a_kill_in_any_generation_changes_nothing_and_measures_nothing_twice(tmp_path: Path) -> None:
    whole = Device()
    expected = evolved(tmp_path / "whole", whole)
    killed, again = Device(die_in=3), Device()
    with pytest.raises(KeyboardInterrupt):
        evolved(tmp_path / "killed", killed)
    found = evolved(tmp_path / "killed", again)
    assert [one.arguments for one in found] == [one.arguments for one in expected]
    assert killed.races[:2] + again.races == whole.races
    damaged = tmp_path / "killed" / "generation-0.json"
    damaged.write_text("{")
    assert evolved(tmp_path / "killed", Device())[0] == found[0]


def test_a_student_that_the_recipe_itself_cannot_make_ends_the_search(tmp_path: Path) -> None:
    device = Device()
    device.suits = lambda arguments: float("nan")  # type: ignore[method-assign]
    with pytest.raises(
        UserError, match="the recipe's own student cannot be compared: its similarity to the teacher is nan"
    ):
        evolved(tmp_path / "work", device)


def test_the_fastest_engine_is_told_in_the_first_races_seconds() -> None:
    rows = {FAST: Measured(9.0, 0.9, 0.8, 1.0), SLOW: Measured(1.0, 0.4, 0.4, 0.4)}
    assert fastest(rows, {"float32 on fast": 1.0, "float32 on slow": 2.0})["engine"] == "float32 on slow"
    found = fastest(rows, {"float32 on fast": 1.0, "float32 on slow": 4.0})
    assert found == {"engine": "float32 on fast", "seconds": 0.9, "low": 0.8, "high": 1.0}
    assert fastest(rows, {"float32 on fast": 1.0})["engine"] == "float32 on fast"


def test_a_candidate_without_an_engine_of_the_first_race_has_failed_and_ends_nothing(tmp_path: Path) -> None:
    class Changed(Device):
        """After the first race the fast kind can no longer be made."""

        def race(self, plans: Sequence[Any], label: str) -> tuple[list[dict[Kind, Measured]], dict[int, str]]:
            found, failed = super().race(plans, label)
            kind = SLOW if len(self.races) > 1 else FAST
            return [{k: one for k, one in rows.items() if k is kind} for rows in found], failed

    found = evolved(tmp_path / "work", Changed(), generations=6)
    able = [one for one in found if one.arguments["width"] < 12 and one.arguments["depth"] < 4]
    assert all(one.engine == "float32 on fast" for one in able[:6])
    why = "the first race had engines of float32 on fast, this one's are of float32 on slow"
    assert {one.failed for one in able[7:]} == {why} and all(one.seconds is None for one in able[7:])


def test_a_small_space_is_tried_whole_and_needs_no_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    device = Device()
    found = evolved(tmp_path / "work", device, generations=6)
    assert [one.arguments for one in found[:3]] == [OWN, {"width": 1, "depth": 1}, {"width": 1, "depth": 2}]
    assert len(found) == 48 and len(device.races) == 6
    with pytest.raises(UserError, match="search needs Optuna, which is not installed") as caught:
        evolved(tmp_path / "other", Device())
    assert caught.value.hint == "pip install 'edgekd[search]'"
