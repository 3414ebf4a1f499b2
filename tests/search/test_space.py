"""What a student search may choose from, and what it says of a recipe that asks for something else."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd import registry
from edgekd.errors import UserError
from edgekd.search.space import check_given, check_own, said, space_of

BUDGET = {"latency": "0.5x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": []}, "arguments.width: [] is no list of values and no range"),
        ({"width": 8}, "arguments.width: 8 is no list of values and no range"),
        ({"width": [8, 16, 8]}, "arguments.width: [8, 16, 8] names a value twice"),
        ({"depth": {"low": 4, "high": 1}}, "arguments.depth: from 4 to 1 by 1 there is no value"),
        ({"depth": {"low": 1, "high": 4, "step": 0}}, "arguments.depth: from 1 to 4 by 0 there is no value"),
        ({"depth": {"low": 1, "high": 2.5}}, "is no range of whole numbers"),
        ({"depth": {"low": 1}}, "is no range of whole numbers"),
        ({"depth": {"low": 1, "hihg": 4}}, 'arguments.depth: unknown key "hihg"'),
        ({"width": [8]}, "arguments: leave nothing to choose"),
        ({}, "arguments: leave nothing to choose"),
    ],
)
def test_arguments_that_leave_nothing_to_search(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.build("stages", "search", {"arguments": arguments, "budget": BUDGET})
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": {"latency": "0x"}}, 'budget.latency: "0x" is not above "0x"'),
        ({"budget": {"latency": "fast"}}, 'budget.latency: "fast" is not a quantity'),
        ({"budget": {"size": "1 kB"}}, "budget.latency: Field required"),
        ({}, "budget: Field required"),
        ({"budget": BUDGET, "population": 1}, "population: Input should be greater than or equal to 2"),
        ({"budget": BUDGET, "losses": []}, "losses: there is none"),
    ],
)
def test_other_wrong_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.build("stages", "search", {"arguments": {"width": [8, 16]}, **fields})
    assert message in caught.value.message


def test_a_budget_may_ask_for_no_faster_a_student_but_a_better_one() -> None:
    stage = registry.build("stages", "search", {"arguments": {"width": [8, 16]}, "budget": {"latency": "1.2x"}})
    assert stage.budget.seconds(0.001) == pytest.approx(0.0012)


def test_the_recipes_own_student_is_in_range_and_the_factory_has_the_arguments() -> None:
    space = space_of({"width": [8, 16], "depth": {"low": 1, "high": 3}})
    check_own(space, {"width": 16, "depth": 2, "classes": 10})
    with pytest.raises(
        UserError, match=r"arguments.width: the recipe's own student, width = 12, is outside its range: 8, 16"
    ) as caught:
        check_own(space, {"width": 12, "depth": 2})
    assert caught.value.hint == "add 12, or set [student] width to one of them"
    with pytest.raises(UserError, match=r"arguments.depth: the factory has no value of its own"):
        check_own(space, {"width": 8})
    check_given(space, {"width": 8}, ["width", "depth"], "nets:small")
    check_given(space, {"width": 8}, None, "nets:small")
    with pytest.raises(UserError, match=r'arguments.depth: "nets:small" has no such argument') as caught:
        check_given(space, {"width": 8}, ["width", "dept"], "nets:small")
    assert caught.value.hint == 'did you mean "dept"?'


def test_no_two_choices_are_said_alike() -> None:
    assert said({"width": 8, "kind": "8"}) == "width = 8, kind = '8'"
    assert said({"width": "8", "kind": 8}) != said({"width": 8, "kind": "8"})
