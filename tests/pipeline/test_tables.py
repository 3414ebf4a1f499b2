"""The latency table as a step of a plan, with real exports: made once, found by structure, refused from another machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from project import made, rewritten
from typer.testing import CliRunner

from edgekd import api, cli
from edgekd.errors import UserError
from edgekd.latency.table import FILE, PICTURE, RACE, Kind, Table
from edgekd.pipeline import searches, tables
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import roots
from edgekd.report.figures import Pruned

RECIPE = """\
[student]
factory = "{module}:student"
width = 8
[teacher]
factory = "{module}:teacher"
[data]
factory = "{module}:data"
[[stage]]
use = "prune"
criterion = "magnitude"
budget = {{ latency = "0.99x", size = "1 MB", memory = "8 GB" }}
epochs = 0
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
    """A student with two groups, of 8 and 16 channels, on the simulated device: only one can be narrowed, to 8."""
    return rewritten(tmp_path_factory.mktemp("tables") / "quarters_priced", RECIPE)


@pytest.fixture(scope="module")
def done(recipe: Path) -> Plan:
    return made(
        api.prepare(recipe, store=recipe.parent / "store", quiet=True),
        "teacher",
        "student",
        "latency table for prune",
        "prune",
    )


def test_the_table_is_planned_before_the_stage_that_reads_it(recipe: Path) -> None:
    plan = api.prepare(recipe, store=recipe.parent / "store", quiet=True)
    names = list(plan.steps)
    assert names[names.index("latency table for prune") + 1] == "prune"
    assert plan.steps["latency table for prune"].reads == ("student", "target")
    assert "latency table for prune" in plan.steps["prune"].reads
    by_ratio = ['targets.names=["raspberry-pi-5"]', "prune.ratio=0.5", 'targets.backends=["onnxruntime"]']
    with pytest.raises(UserError, match="both are given"):
        api.prepare(recipe, overrides=by_ratio, store=recipe.parent / "store", quiet=True)


def test_a_criterion_that_learns_races_engines_in_place_of_a_table(recipe: Path) -> None:
    learned = ['prune.criterion={ use = "cofi" }', 'prune.budget={ latency = "0.5x" }']
    plan = api.prepare(recipe, overrides=learned, store=recipe.parent / "store", quiet=True)
    assert "latency table for prune" not in plan.steps and plan.recipe.stages[0].races
    other = api.prepare(recipe, overrides=[*learned, "measure.seconds=0.06"], store=recipe.parent / "store", quiet=True)
    assert other.steps["prune"].key != plan.steps["prune"].key, "how long is measured is part of what it came from"


def test_the_plan_is_measured_and_both_numbers_are_kept(done: Plan) -> None:
    table = Table.read(done.entry("latency table for prune").path / FILE)
    assert table.space.widths == {"0": (8,), "4": (8, 16)}
    assert [dict(plan) for plan in table.plans] == [{"0": 8, "4": 16}, {"0": 8, "4": 8}]
    facts = done.entry("prune").facts
    assert facts["groups"] == {"0": {"before": 8, "after": 8}, "4": {"before": 16, "after": 8}} or facts["groups"] == {
        "4": {"before": 16, "after": 8}
    }
    told = facts["latency"]
    assert told["predicted"] == pytest.approx(told["measured"], rel=1e-6)
    assert told["measured"] == pytest.approx(table.rows[Kind("null", "float32")][1].seconds, rel=1e-6)
    assert told["measured"] < told["allowed"] < told["whole"]
    shown = Pruned.model_validate(searches.pruned(done, next(v for v in done.versions if v.name == "prune")))
    assert [limit.quantity for limit in shown.limits] == ["latency", "size", "memory"] and shown.plans == 1
    assert shown.limits[0].measured == told["measured"] and shown.engine == "float32 on null"
    assert searches.pruned(done, next(v for v in done.versions if v.name == "student")) is None
    row = table.rows[Kind("null", "float32")][1]
    assert facts["size"]["measured"] == row.bytes and 0 < row.bytes < 1000, (
        "of device.json, which is all that the engine is"
    )
    assert row.memory is not None and 10e6 < facts["memory"]["measured"] < 8e9
    assert facts["memory"]["measured"] == pytest.approx(row.memory, rel=0.3), (
        "of new processes that open the same engine"
    )
    assert not any((done.store.folder / "work").iterdir()), "engines of the table are not kept"


def test_the_command_finds_the_same_table_and_shows_it(
    done: Plan, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_measure", _not_again)
    asked = ["table", str(recipe), "--store", str(done.store.folder), "--out", str(tmp_path), "--quiet"]
    shown = CliRunner().invoke(cli.app, asked)
    assert shown.exit_code == 0, shown.output
    assert "float32 on null: whole 1" in shown.stdout and "predicted against measured, left out" in shown.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([FILE, RACE, PICTURE])
    picture = (tmp_path / PICTURE).read_text()
    assert picture.startswith("<svg ") and picture.count("<circle") == 1 + 2
    as_json = CliRunner().invoke(cli.app, [*asked, "--json"])
    found = json.loads(as_json.stdout)
    assert found["predictor"]["float32 on null"]["error"]["largest"] >= 0
    assert found["plans"][0] == {"0": 8, "4": 16}


def _not_again(*_: Any) -> dict[str, Any]:
    raise AssertionError("measured again")


def test_a_table_from_another_machine_is_refused_with_the_command(
    done: Plan, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was carried to another machine whose target says the same facts: the stage does not plan by its times."""
    there = {**tables.machine_of(done, done.targets[0]), "cores": 96}
    monkeypatch.setattr(tables, "machine_of", lambda plan, target: there)
    with pytest.raises(UserError, match="the latency table was measured on another machine: cores") as caught:
        tables.pricing(done, "prune", "student", done.store.folder)
    assert caught.value.hint == "measure it again: edgekd table recipe.toml --target host --fresh"


def test_a_target_that_is_not_here_cannot_price(recipe: Path) -> None:
    with pytest.raises(
        UserError, match="no target's latency can be measured here: raspberry-pi-5: the device is"
    ) as caught:
        api.prepare(recipe, overrides=['targets.names=["raspberry-pi-5"]'], store=recipe.parent / "store", quiet=True)
    assert "ratio" in caught.value.hint


def test_a_student_without_a_group_to_narrow_is_an_error(recipe: Path) -> None:
    module = recipe.parent / "quarters_priced.py"
    kept = module.read_text()
    module.with_name("quarters_flat.py").write_text(
        kept + "\ndef flat() -> nn.Module:\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 4))\n"
    )
    recipe_flat = recipe.with_name("flat.toml")
    recipe_flat.write_text(recipe.read_text().replace('"quarters_priced:student"\nwidth = 8', '"quarters_flat:flat"'))
    plan = api.prepare(recipe_flat, store=recipe.parent / "store", quiet=True)
    roots(plan)
    with pytest.raises(
        UserError, match='no group of channels that can be pruned: "1": its channels are the network\'s'
    ):
        tables.measured(plan, "student", plan.targets[0])


def test_a_student_of_other_arguments_has_a_table_of_its_own(done: Plan, recipe: Path, tmp_path: Path) -> None:
    """A stage put other arguments of the factory in place: another structure, though its groups may be as wide."""
    plan = api.prepare(recipe, store=done.store.folder, quiet=True)
    found = {}
    for instead in ({}, {"width": 8}, {"width": 12}):
        folder = shutil.copytree(done.entry("student").path, tmp_path / json.dumps(instead))
        origin = {**done.student("student").origin, "instead": instead}
        (folder / "student.json").write_text(json.dumps(origin))
        plan.entries["student"] = replace(done.entry("student"), path=folder)
        found[instead.get("width")] = tables.structure(plan, "student")
    assert found[None] == found[8] != found[12]
