"""Blocks replaced in a recipe, on ONNX Runtime: timed there, found again for another budget, told in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import new_project
from torch import nn

from edgekd import api
from edgekd.errors import UserError
from edgekd.factory import Factory
from edgekd.latency.table import Kind
from edgekd.pipeline import searches, variants
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import run
from edgekd.recipe import load
from edgekd.report import markdown, tried, words
from edgekd.report.figures import Search
from edgekd.student import write_tensors

RECIPE = """\
[student]
factory = "{module}:student"
width = 48
weights = "student.safetensors"
[data]
factory = "{module}:data"
[[stage]]
use = "puzzle"
blocks = ["4"]
budget = {{ latency = "0.95x", memory = "8 GB" }}
samples = 64
epochs = 1
[targets]
names = ["host"]
backends = ["onnxruntime"]
[measure]
processes = 1
seconds = 0.2
wait = 0
"""
ORT = Kind("onnxruntime", "float32")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = new_project(tmp_path_factory.mktemp("puzzle") / "quarters_puzzled")
    recipe.write_text(RECIPE.format(module="quarters_puzzled"))
    network = Factory("quarters_puzzled:student", recipe.parent)(width=48)
    write_tensors(recipe.with_name("student.safetensors"), network.state_dict())
    return recipe


@pytest.fixture(scope="module")
def done(recipe: Path) -> Plan:
    plan = api.prepare(recipe, store=recipe.parent / "store", quiet=True)
    for name in ("student", "puzzle"):
        step = plan.steps[name]
        plan.entries[name] = plan.store.make(step.key, step.label, step.make)
    return plan


def test_the_block_is_replaced_by_what_was_measured_to_be_faster(done: Plan) -> None:
    told = done.entry("puzzle").facts["puzzle"]
    (block,) = told["blocks"]
    assert block["name"] == "4" and block["chosen"] > 0 and told["kinds"] == [ORT.name]
    row = block["alternatives"][block["chosen"] - 1]
    assert row["timed"][ORT.name]["high"] < 1 and told["measured"] < told["whole"]
    assert told["size"] > 0 and 10e6 < told["limits"]["memory"]["measured"] < 8e9, "of a new process"
    (edit,) = done.student("puzzle").edits
    assert list(edit["blocks"]) == ["4"] and edit["blocks"]["4"]["use"] in ("separable", "conv")
    replaced = next(m for m in done.student("puzzle").network()[4].modules() if isinstance(m, nn.Conv2d))
    assert replaced.in_channels == 48
    assert done.reference.name == "student"


def test_another_budget_finds_blocks_and_times_in_the_store(done: Plan, recipe: Path) -> None:
    def labels() -> list[str]:
        return sorted(entry.facts["label"] for entry in done.store.entries() if "puzzle:" in entry.facts["label"])

    before = labels()
    assert before[-2:] == ["puzzle: 4: 1 × 1 convolution", "puzzle: 4: separable"]
    assert before[:2] == ["latency of puzzle: 2 alternatives", "latency of puzzle: the plan"]
    other = api.prepare(recipe, overrides=['puzzle.budget.latency="0.94x"'], store=done.store.folder, quiet=True)
    assert other.steps["puzzle"].key != done.steps["puzzle"].key
    other.entries = {"student": done.entry("student")}
    step = other.steps["puzzle"]
    other.entries["puzzle"] = done.store.make(step.key, step.label, step.make)
    assert labels() == before, "nothing was trained or timed again"
    assert other.entry("puzzle").facts["puzzle"]["budget"] == "0.94x, memory 8 GB"


def test_the_report_tells_every_alternative(done: Plan) -> None:
    told = searches.of_report(done, next(v for v in done.versions if v.name == "puzzle"))
    shown = Search.model_validate(told)
    assert [one.what for one in shown.tried] == ["4: separable", "4: 1 × 1 convolution"]
    assert [one.verdict for one in shown.tried].count("chosen") == 1
    assert all(one.low <= one.latency <= one.high and one.score <= 0 for one in shown.tried)
    assert "2 alternatives to blocks" in words.search(shown) and "1 chosen together within 0.95x" in words.search(shown)
    assert tried.draw(shown, 880) == "" and markdown._tried(shown.tried[0], "accuracy")[3].endswith("µs")
    assert searches.found_recipe(done) is None


def test_one_that_cannot_be_compiled_costs_no_other(done: Plan, recipe: Path) -> None:
    """On the simulated device."""
    plan = api.prepare(recipe, overrides=['targets.backends=["null"]'], store=done.store.folder, quiet=True)
    plan.entries = {"student": done.entry("student")}
    wrong = {"edit": "replace", "blocks": {"4": {"use": "linear", "inputs": 8, "outputs": 8}}}
    rows, failed = variants.race_edited(plan, "student", [[], [wrong]], "two")
    assert list(failed) == [1] and rows[1] == {} and rows[0][Kind("null", "float32")].size > 0


def test_an_untrained_student_is_no_parent(recipe: Path, tmp_path: Path) -> None:
    other = recipe.with_name("untrained.toml")
    other.write_text(recipe.read_text().replace('weights = "student.safetensors"\n', ""))
    with pytest.raises(UserError, match="the student before it is untrained") as caught:
        run(api.prepare(other, store=tmp_path, quiet=True))
    assert "weights" in caught.value.hint
    with pytest.raises(UserError, match='has no field "blokcs"') as caught:
        load(recipe, ['puzzle.blokcs=["4"]'])
    assert caught.value.hint == 'did you mean "blocks"?'
