"""Blocks replaced in a recipe, on ONNX Runtime: timed there, built on by every stage that follows, told in the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from project import new_project

from edgekd import api
from edgekd.errors import UserError
from edgekd.latency.table import Kind
from edgekd.pipeline import searches, variants
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import run
from edgekd.recipe import load
from edgekd.report import markdown, tried, words
from edgekd.report.figures import Search

RECIPE = """\
[student]
factory = "{module}:student"
width = 48
[teacher]
factory = "{module}:teacher"
[data]
factory = "{module}:data"
[[stage]]
use = "distill"
losses = [{{ use = "cross_entropy" }}]
epochs = 1
[[stage]]
use = "puzzle"
blocks = ["4"]
budget = {{ latency = "0.95x" }}
samples = 128
epochs = 1
[[stage]]
use = "distill"
losses = [{{ use = "kl" }}]
epochs = 1
[[stage]]
use = "prune"
criterion = "magnitude"
ratio = 0.25
epochs = 0
[[stage]]
use = "quantize"
calibration = "train-128"
[targets]
names = ["host"]
backends = ["onnxruntime"]
[measure]
processes = 1
seconds = 0.2
wait = 0
"""
MADE = "compile quantize on onnxruntime for host"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = new_project(tmp_path_factory.mktemp("puzzle") / "quarters_puzzled")
    recipe.write_text(RECIPE.format(module="quarters_puzzled"))
    return recipe


@pytest.fixture(scope="module")
def done(recipe: Path) -> Plan:
    """Everything up to the last engine, and its evaluation."""
    plan = api.prepare(recipe, store=recipe.parent / "store", quiet=True)
    needed, waiting = set(), [MADE, MADE.replace("compile", "evaluate")]
    while waiting:
        name = waiting.pop()
        if name in plan.steps and name not in needed:
            needed.add(name)
            waiting += plan.steps[name].reads
    for name, step in plan.steps.items():
        if name in needed:
            plan.entries[name] = plan.store.make(step.key, step.label, step.make)
    return plan


def test_the_block_is_replaced_by_what_was_measured_to_be_faster(done: Plan) -> None:
    told = done.entry("puzzle").facts["puzzle"]
    (block,) = told["blocks"]
    assert block["name"] == "4" and block["chosen"] > 0 and told["kinds"] == ["int8 on onnxruntime"]
    row = block["alternatives"][block["chosen"] - 1]
    assert row["timed"]["int8 on onnxruntime"]["high"] < 1 and told["measured"] < told["whole"]
    (edit,) = done.student("puzzle").edits
    assert list(edit["blocks"]) == ["4"] and edit["blocks"]["4"]["use"] in ("separable", "conv")


def test_what_follows_is_made_of_it_and_runs(done: Plan) -> None:
    assert [edit["edit"] for edit in done.student("quantize").edits] == ["replace", "prune", "quantize"]
    assert done.student("distill 2").network()[4][0].in_channels == 48
    engine = np.load(done.entry(MADE.replace("compile", "evaluate")).path / "outputs.npz")["validation"]
    program = np.load(done.entry("judge quantize, program").path / "outputs.npz")["validation"]
    assert (engine.argmax(1) == program.argmax(1)).mean() > 0.98
    assert np.abs(engine - program).max() < 0.05 * np.ptp(program)


def test_another_budget_finds_blocks_and_times_in_the_store(done: Plan, recipe: Path) -> None:
    def labels() -> list[str]:
        return sorted(entry.facts["label"] for entry in done.store.entries() if "puzzle:" in entry.facts["label"])

    before = labels()
    assert [label for label in before if label.startswith("puzzle: 4")] == [
        "puzzle: 4: 1 × 1 convolution",
        "puzzle: 4: separable",
    ]
    assert "latency of puzzle: 2 alternatives" in before and "latency of puzzle: the plan" in before
    other = api.prepare(recipe, overrides=['puzzle.budget.latency="0.94x"'], store=done.store.folder, quiet=True)
    assert (
        other.steps["puzzle"].key != done.steps["puzzle"].key
        and other.steps["distill"].key == done.steps["distill"].key
    )
    other.entries = {name: done.entry(name) for name in ("teacher", "student", "distill")}
    step = other.steps["puzzle"]
    other.entries["puzzle"] = done.store.make(step.key, step.label, step.make)
    assert labels() == before, "nothing was trained or timed again"
    assert other.entry("puzzle").facts["puzzle"]["budget"] == "0.94x"


def test_the_report_tells_every_alternative(done: Plan) -> None:
    told = searches.of_report(done, next(v for v in done.versions if v.name == "puzzle"))
    shown = Search.model_validate(told)
    assert [one.what for one in shown.tried] == ["4: separable", "4: 1 × 1 convolution"]
    assert [one.verdict for one in shown.tried].count("chosen") == 1
    assert all(one.low <= one.latency <= one.high and one.score <= 0 for one in shown.tried)
    assert "2 alternatives to blocks" in words.search(shown) and "1 chosen together within 0.95x" in words.search(shown)
    assert tried.draw(shown, 880) == "" and markdown._tried(shown.tried[0], "accuracy")[3].endswith("µs")
    assert searches.found_recipe(done) is None
    assert done.reference.name == "distill"


def test_one_that_cannot_be_compiled_costs_no_other(done: Plan) -> None:
    wrong = {"edit": "replace", "blocks": {"4": {"use": "linear", "inputs": 8, "outputs": 8}}}
    fine = {
        "edit": "replace",
        "blocks": {"4": {"use": "conv", "inputs": 48, "outputs": 96, "kernel": 1, "stride": [1, 1], "relu": False}},
    }
    rows, failed = variants.race_edited(done, "distill", [[], [wrong], [fine]], "three")
    assert list(failed) == [1] and rows[1] == {}
    assert list(rows[2]) == [Kind("onnxruntime", "int8")] and rows[2][Kind("onnxruntime", "int8")].size > 0


def test_an_untrained_student_is_no_parent(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text()
    first, *stages = text.split("[[stage]]")
    other = recipe.with_name("untrained.toml")
    other.write_text(first + "[[stage]]" + stages[1] + "[targets]\nbackends = ['null']\n")
    with pytest.raises(UserError, match="the student before it is untrained") as caught:
        run(api.prepare(other, store=tmp_path, quiet=True))
    assert "weights" in caught.value.hint
    with pytest.raises(UserError, match='has no field "blokcs"') as caught:
        load(recipe, ['puzzle.blokcs=["4"]'])
    assert caught.value.hint == 'did you mean "blocks"?'
