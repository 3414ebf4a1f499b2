"""A search in a recipe, with real exports on the simulated device: it is checked, made once, and built on by what follows."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from project import made, rewritten

from edgekd import __version__, api
from edgekd.errors import UserError
from edgekd.farm import Failure
from edgekd.latency.table import Kind
from edgekd.pipeline import searches, spread, variants
from edgekd.pipeline.again import request_of
from edgekd.pipeline.plan import Plan
from edgekd.recipe import load
from edgekd.report import markdown, tried
from edgekd.report.figures import Search
from edgekd.search.evolution import Candidate
from edgekd.search.similarity import suits, teachers_view

RECIPE = """\
[student]
factory = "{module}:student"
width = 8
[teacher]
factory = "{module}:teacher"
[data]
factory = "{module}:data"
[[stage]]
use = "search"
arguments = {{ width = [4, 8] }}
budget = {{ latency = "0.9999x" }}
population = 2
generations = 2
best = 1
epochs = 1
batch = 256
[[stage]]
use = "distill"
losses = [{{ use = "kl" }}]
epochs = 1
fresh = true
[targets]
names = ["host"]
backends = ["null"]
[measure]
processes = 1
seconds = 0.05
wait = 0
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten(tmp_path_factory.mktemp("variants") / "quarters_searched", RECIPE)


@pytest.fixture(scope="module")
def done(recipe: Path) -> Plan:
    return made(
        api.prepare(recipe, store=recipe.parent / "store", quiet=True), "teacher", "student", "search", "distill"
    )


def test_what_follows_goes_on_with_the_student_that_was_found(done: Plan) -> None:
    told = done.entry("search").facts["search"]
    assert told["chosen"] == {"width": 4} and told["whole"] == {"float32 on null": pytest.approx(1e-4, rel=0.5)}
    rows = {one["arguments"]["width"]: one for one in told["candidates"]}
    assert rows[4]["seconds"] < told["allowed"] < rows[8]["seconds"], "the smaller file is the faster engine there"
    assert rows[4]["engine"] == "float32 on null" and rows[4]["parameters"] < rows[8]["parameters"]
    for name in ("search", "distill"):
        assert done.student(name).network()[0].out_channels == 4
        assert done.student(name).origin["arguments"] == {"width": 4}
    assert done.student("student").network()[0].out_channels == 8
    assert not any((done.store.folder / "work").iterdir()), "engines of the search are not kept"


def test_its_key_holds_the_machine_and_its_arguments(done: Plan, recipe: Path) -> None:
    def key(*sets: str) -> str:
        return api.prepare(recipe, overrides=sets, store=done.store.folder, quiet=True).steps["search"].key

    assert key() == done.steps["search"].key
    assert key("measure.seconds=0.1") != key() != key("search.arguments.width=[4, 6, 8]")


def test_the_report_tells_it_and_the_recipe_found_is_plain(done: Plan) -> None:
    told = searches.of_report(done, next(v for v in done.versions if v.name == "search"))
    assert told is not None
    shown = Search.model_validate(told)
    assert {one.what: one.verdict for one in shown.tried} == {"width = 8": "too slow", "width = 4": "chosen"}
    assert tried.draw(shown, 880).count("<circle") == 3 and "similarity" in tried.draw(shown, 350)
    assert markdown._tried(shown.tried[0], "accuracy")[1] == "too slow"
    text = searches.found_recipe(done)
    assert text is not None and text.startswith("# What edgekd found for recipe.toml.")
    found = tomllib.loads(text)
    assert found["student"]["width"] == 4 and [stage["use"] for stage in found["stage"]] == ["distill"]
    beside = done.recipe.path.with_name("found.toml")
    beside.write_text(text)
    assert [type(stage).__name__ for stage in load(beside).stages] == ["Distill"]


def test_where_no_stage_trains_what_was_found_the_searchs_own_training_does(done: Plan, recipe: Path) -> None:
    other = recipe.with_name("other.toml")
    text = recipe.read_text().replace("width = 8\n", 'width = 8\nweights = "recipe.toml"\n')
    kept = text[: text.index('use = "distill"')] + 'use = "prune"\nratio = 0.5\n' + text[text.index("[targets]") :]
    other.write_text(kept)
    plan = api.prepare(other, store=done.store.folder, quiet=True)
    plan.entries["search"] = done.entry("search")
    found = tomllib.loads(searches.found_recipe(plan) or "")
    assert found["student"] == {"factory": "quarters_searched:student", "width": 4}, "weights were of another student"
    first, second = found["stage"]
    assert {**first, "losses": [one["use"] for one in first["losses"]]} == {
        "use": "distill", "losses": ["cross_entropy", "kl"], "epochs": 1, "batch": 256,
    }  # fmt: skip
    assert second == {"use": "prune", "ratio": 0.5}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["student.width=16"], "width = 16, is outside its range: 4, 8"),
        (["search.arguments={ widht = [4, 8] }"], 'quarters_searched:student" has no such argument'),
        (["search.arguments={ width = [] }"], "is no list of values and no range"),
        (['search.losses=[{ use = "kll" }]'], 'no loss named "kll"'),
    ],
)
def test_a_wrong_recipe_is_said_before_any_work(recipe: Path, sets: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(recipe, sets)
    assert message in caught.value.message and "recipe.toml" in caught.value.message


def test_one_that_cannot_be_exported_or_opened_costs_no_other(done: Plan, recipe: Path, tmp_path: Path) -> None:
    made = variants.variants(done, "student", "search", tmp_path)
    assert made.own == {"width": 8} and [kind.name for kind in made.kinds] == ["float32 on null"]
    found: Any = made.race([{"width": 8}, {"width": 0}], "two")
    rows, failed = found
    assert list(failed) == [1] and failed[1].startswith("float32 on null: ")
    assert [len(row) for row in rows] == [1, 0]


def test_another_process_makes_the_plan_again_and_scores_and_races_the_same(done: Plan, tmp_path: Path) -> None:
    """What a machine of a Ray cluster is sent to do (tests/test_farm.py sends it there), here in this process."""
    scoring, racing = request_of(done, "student"), request_of(done, "student", "search")
    inputs, targets = (part[:16] for part in done.roots.data().train)
    seen = teachers_view(done.roots.teacher(done.entry("teacher").path), inputs)
    one = spread._score(scoring, "search", "student", {"width": 4}, (seen, inputs, targets), __version__)
    assert isinstance(one, Candidate)
    make = partial(variants.variants(done, "student", "search", tmp_path).make, {"width": 4})
    assert one.score == pytest.approx(suits(seen, make, inputs, targets), abs=1e-6)
    assert one.parameters == sum(p.numel() for p in done.roots.student_with({"width": 4}).parameters())
    rows, failed = spread._race(racing, "search", "student", [{"width": 8}], "own", __version__)
    assert not failed and [list(row) for row in rows] == [[Kind("null", "float32")]]
    told = {row["arguments"]["width"]: row for row in done.entry("search").facts["search"]["candidates"]}
    assert rows[0][Kind("null", "float32")].seconds == pytest.approx(told[8]["seconds"], rel=1e-6)
    other = spread._race(racing, "search", "student", [], "", "0.0")
    assert isinstance(other, Failure) and "is there, 0.0 here" in other.message
    stale = spread._race({**racing, "keys": {"search": "0"}}, "search", "student", [], "", __version__)
    assert (
        isinstance(stale, Failure) and stale.message == "search: what the recipe reads has changed since it was started"
    )
    lost = spread._race(
        {**racing, "store": str(done.store.folder / "elsewhere")}, "search", "student", [], "", __version__
    )
    assert isinstance(lost, Failure) and lost.user and 'a machine of the cluster does not find "' in lost.message
