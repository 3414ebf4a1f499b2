"""Successive halving over losses whose worth is known: it spends what it may, climbs, and survives a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_data, tiny_student

from edgekd import registry
from edgekd.errors import EdgekdError, UserError
from edgekd.search.budget import LossBudget
from edgekd.search.halving import best, halve, rungs
from edgekd.search.losses import pairs_of
from edgekd.teachers.function import Function
from edgekd.teachers.module import Module

pytest.importorskip("optuna", reason="pip install 'edgekd[search]'")

PAIRS = [("block", "block"), ("down", "down")]


def worth(losses: list[dict[str, Any]]) -> float:
    """KL warm and heavy, no labels, a light hint at "down" is best: 1.0."""
    found = {one["use"]: one for one in losses}
    kl, hint = found.get("kl", {}), found.get("hint", {})
    total = (
        0.4 * (kl.get("weight") == 1.0) + 0.2 * (kl.get("temperature") == 4.0) + 0.1 * ("cross_entropy" not in found)
    )
    return total + 0.2 * (hint.get("student") == "down") + 0.1 * (0 < hint.get("weight", 0) < 1)


class School:
    """Trains at once: what losses are worth shows the clearer the longer. A loss called "dkd" does not stay finite."""

    def __init__(self, die_in: int = 0) -> None:
        self.trained: list[tuple[int, int]] = []
        self.die_in = die_in

    def __call__(self, losses: list[dict[str, Any]], number: int, epochs: int) -> float:
        self.trained.append((number, epochs))
        if len(self.trained) == self.die_in:
            raise KeyboardInterrupt
        if any(one["use"] == "dkd" for one in losses):
            raise EdgekdError("epoch 1, step 3: the loss is nan\nmore")
        return worth(losses) * epochs / 9


BUDGET = LossBudget(60, ("cross_entropy", "kl", "dkd", "hint"))


def test_it_begins_with_the_usual_climbs_and_stops_at_the_budget(tmp_path: Path) -> None:
    school = School()
    tried, spent = halve(school, BUDGET, 9, PAIRS, tmp_path, 0)
    usual = [{"use": "cross_entropy", "weight": 0.5}, {"use": "kl", "temperature": 4.0, "weight": 0.5}]
    assert tried[0].losses == usual and tried[0].epochs == 9
    assert spent == sum(epochs for _, epochs in school.trained) <= 60 < spent + 9
    assert {epochs for _, epochs in school.trained} == {1, 3, 9}
    found = best(tried)
    assert found is not None and found.epochs == 9
    assert worth(found.losses) > worth(usual) and worth(found.losses) >= 0.6
    assert found.validation == max(one.validation for one in tried if one.epochs == 9 and one.validation is not None)
    stopped = [one for one in tried if one.verdict == "stopped" and one.epochs < 9]
    assert len(stopped) > len(tried) / 2, "most never get the whole training"
    failed = [one for one in tried if one.verdict == "failed"]
    assert failed and all(
        "dkd" in one.to_json()["what"] and one.reason == "epoch 1, step 3: the loss is nan" for one in failed
    )


def test_no_two_tries_are_alike_and_each_can_be_written_in_a_recipe(tmp_path: Path) -> None:
    tried, _ = halve(School(), BUDGET, 9, PAIRS, tmp_path, 1)
    assert len({one.to_json()["what"] for one in tried}) == len(tried) > 8
    for one in tried:
        stage = registry.build("stages", "distill", {"losses": one.losses})
        stage.check()
        hints = [table for table in one.losses if table["use"] == "hint"]
        assert all((table["student"], table["teacher"]) in PAIRS for table in hints)


@pytest.mark.parametrize("die_in", [5])
def test_a_kill_changes_nothing_and_trains_nothing_twice(tmp_path: Path, die_in: int) -> None:
    whole, killed, again = School(), School(die_in), School()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    few = LossBudget(27, BUDGET.among)
    expected = halve(whole, few, 9, PAIRS, tmp_path / "a", 0)
    with pytest.raises(KeyboardInterrupt):
        halve(killed, few, 9, PAIRS, tmp_path / "b", 0)
    assert halve(again, few, 9, PAIRS, tmp_path / "b", 0) == expected
    assert killed.trained[:-1] + again.trained == whole.trained


def test_a_small_space_ends_before_the_budget_does(tmp_path: Path) -> None:
    tried, spent = halve(School(), LossBudget(5000, ("js",)), 9, PAIRS, tmp_path, 0)
    assert spent < 5000 and {one.losses[0]["use"] for one in tried} == {"js"}
    assert len(tried) <= 4 * 5 + 1  # temperatures, weights; and the loss by itself


def test_the_ladder_of_a_short_training() -> None:
    assert rungs(1) == [1] and rungs(3) == [1, 3] and rungs(100) == [11, 33, 100]


def test_modules_are_paired_by_shape_and_a_black_box_has_none() -> None:
    x = tiny_data().train[0][:2]
    found = pairs_of(tiny_student(8).eval(), Module(tiny_student(16)), x)
    assert ("down", "down") in found and len(found) == len(set(found)) <= 4
    assert all(student and teacher for student, teacher in found)
    assert pairs_of(tiny_student(8).eval(), Function(lambda inputs: inputs.reshape(len(inputs), -1)[:, :4]), x) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": "auto"}, "budget: is missing"),
        ({"losses": [{"use": "kl"}], "budget": {"epochs": 60}}, 'budget: is for losses = "auto"'),
        ({"losses": "auto", "budget": {"epochs": 3}}, "budget.epochs: 3 are fewer than one training takes, 12"),
        ({"losses": "auto", "budget": {"epochs": 60, "among": []}}, "budget.among: there is none"),
        ({"losses": "auto", "budget": {"epochs": 60, "amnog": ["kl"]}}, "budget.amnog: "),
        ({"losses": "best", "budget": {"epochs": 60}}, "losses"),
    ],
)
def test_wrong_fields_are_said_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.build("stages", "distill", fields)
    assert message in caught.value.message


def test_a_loss_that_does_not_exist_is_named_with_the_nearest() -> None:
    stage = registry.build("stages", "distill", {"losses": "auto", "budget": {"epochs": 60, "among": ["kll"]}})
    assert stage.names() == [("budget", "losses", "kll")]
    assert stage.reads == {"data", "teacher"} and "optuna" in stage.packages
    with pytest.raises(UserError, match='no loss named "kll"') as caught:
        stage.check()
    assert '"kl"' in caught.value.hint


def test_a_loss_that_no_try_would_have_is_refused() -> None:
    stage = registry.build(
        "stages", "distill", {"losses": "auto", "budget": {"epochs": 60, "among": ["kl", "teacher_routing"]}}
    )
    with pytest.raises(
        UserError, match=r'budget.among: "teacher_routing" is on neither labels, logits nor features'
    ) as caught:
        stage.check()
    assert "leave it out" in caught.value.hint
