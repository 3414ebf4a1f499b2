"""The search stage, whole, on a simulated device: what it chooses, what it says, and that it never reads the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TinyNet, tiny_context, tiny_data, tiny_saved, tiny_student

from edgekd import registry
from edgekd.errors import UserError
from edgekd.latency.table import Kind, Measured
from edgekd.search.space import Variants
from edgekd.stages.search import Search
from edgekd.student import Student
from edgekd.teachers.function import Function

KIND = Kind("null", "float32")
HIDDEN = replace(tiny_data(), test=(None, None))  # type: ignore[arg-type]  # whoever reads it fails
BRIEF = {"population": 3, "generations": 2, "epochs": 2, "batch": 32, "lr": 2e-2, "best": 2}


def race(plans: Sequence[Any], label: str) -> tuple[list[dict[Kind, Measured]], dict[int, str]]:
    """1 µs a channel."""
    whole = plans[0]["width"]
    found = []
    for plan in plans:
        share = plan["width"] / whole
        found.append({KIND: Measured(1e-6 * plan["width"], share, share, share)})
    return found, {}


def make(arguments: Any, draw: int) -> torch.nn.Module:
    return tiny_student(arguments["width"], draw)


VARIANTS = Variants({"width": 8, "classes": 4}, (KIND,), make, race)


def searched(folder: Path, latency: str = "1x", **changes: Any) -> tuple[Student, dict[str, Any]]:
    fields = {"arguments": {"width": [4, 6, 8, 12]}, "budget": {"latency": latency}, **BRIEF}
    stage: Search = registry.build("stages", "search", {**fields, **changes.pop("fields", {})})
    stage.check()
    (folder / "out").mkdir(parents=True)
    context = tiny_context(folder, **{"data": HIDDEN, "variants": lambda: VARIANTS, **changes})
    facts = stage.run(tiny_saved(folder / "in"), context, folder / "out")
    return Student(folder / "out", tiny_student), json.loads(json.dumps(facts))["search"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, dict[str, Any]]:
    return searched(tmp_path_factory.mktemp("search") / "run")


def test_the_best_few_within_the_budget_are_distilled_and_validation_chooses(
    found: tuple[Student, dict[str, Any]],
) -> None:
    _, told = found
    rows = {one["arguments"]["width"]: one for one in told["candidates"]}
    assert told["allowed"] == pytest.approx(8e-6) and told["whole"] == {"float32 on null": pytest.approx(8e-6)}
    assert rows[8] == told["candidates"][0]
    fast = sorted((row for row in rows.values() if row["seconds"] <= 8e-6), key=lambda row: -row["score"])
    trained = [row for row in rows.values() if row["validation"] is not None]
    assert sorted(row["arguments"]["width"] for row in trained) == sorted(row["arguments"]["width"] for row in fast[:2])
    best = max(trained, key=lambda row: row["validation"])
    assert told["chosen"] == best["arguments"] and best["validation"] > 0.3


def test_the_student_is_made_of_the_arguments_that_were_found(found: tuple[Student, dict[str, Any]]) -> None:
    student, told = found
    width = told["chosen"]["width"]
    assert student.origin == {"factory": "tiny:tiny_student", "arguments": {"width": width}}
    network = Student(student.path, lambda: tiny_student(**student.origin["arguments"])).network()
    assert isinstance(network, TinyNet) and network.head.in_features == 2 * width
    right = network(tiny_data().validation[0]).argmax(1) == tiny_data().validation[1]
    row = next(one for one in told["candidates"] if one["arguments"] == told["chosen"])
    assert float(right.float().mean()) == pytest.approx(row["validation"])
    assert student.edits == [] and student.signature["labels"] == ["nw", "ne", "sw", "se"]


def test_it_is_the_same_each_time(tmp_path: Path, found: tuple[Student, dict[str, Any]]) -> None:
    student, told = searched(tmp_path)
    assert told == found[1]
    assert all(torch.equal(a, b) for a, b in zip(student.weights().values(), found[0].weights().values(), strict=True))


def test_a_budget_that_none_keeps_says_the_least_latency_and_its_score(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"budget.latency 2 us \(2.00 µs\) is kept by none of \d students: the least latency reached is [46].00 µs with "
        r"width = [46], whose score is -0\.\d+",
    ) as caught:
        searched(tmp_path, "2 us")
    assert "smaller values" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": {"arguments": {"width": [4, 6]}}}, "width = 8, is outside its range: 4, 6"),
        (
            {"teacher": Function(lambda inputs: inputs.reshape(len(inputs), -1)[:, :4])},
            "gives logits only, not features",
        ),
        ({"data": replace(HIDDEN, train=(tiny_data().train[0], torch.zeros(256)))}, "the targets are no labels"),
    ],
)
def test_what_cannot_be_searched_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        searched(tmp_path, **changes)


def test_what_an_earlier_stage_did_is_not_thrown_away(tmp_path: Path) -> None:
    student = tiny_saved(tmp_path / "in")
    (student.path / "edits.json").write_text('[{"edit": "prune", "kept": {}}]')
    stage = registry.build("stages", "search", {"arguments": {"width": [4, 8]}, "budget": {"latency": "1x"}})
    with pytest.raises(UserError, match="what earlier stages did would be lost") as caught:
        stage.run(student, tiny_context(tmp_path, variants=lambda: VARIANTS), tmp_path)
    assert caught.value.hint == "let search be the first stage"


def test_nor_are_arguments_that_an_earlier_stage_put_in_place(tmp_path: Path) -> None:
    student = tiny_saved(tmp_path / "in")
    (student.path / "student.json").write_text('{"factory": "tiny:tiny_student", "instead": {"width": 12}}')
    assert student.arguments == {"width": 12}
    stage = registry.build("stages", "search", {"arguments": {"width": [4, 8]}, "budget": {"latency": "1x"}})
    with pytest.raises(UserError, match="what earlier stages did would be lost"):
        stage.run(student, tiny_context(tmp_path, variants=lambda: VARIANTS), tmp_path)


def test_a_peer_of_a_candidate_is_another_drawing_of_it(tmp_path: Path) -> None:
    drawn: list[tuple[int, int]] = []

    def noted(arguments: Any, draw: int) -> torch.nn.Module:
        drawn.append((arguments["width"], draw))
        return make(arguments, draw % 1000)

    losses = [{"use": "cross_entropy"}, {"use": "kl", "from": "peer"}]
    _, told = searched(
        tmp_path, fields={"losses": losses, "best": 1, "epochs": 1}, variants=lambda: replace(VARIANTS, make=noted)
    )
    width, peer = drawn[-1]
    assert width == told["chosen"]["width"] and peer > 1000, "a seed of its own"
