"""The recipe: whatever is wrong is said before any work, with file, key, line and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.errors import UserError
from edgekd.recipe import line_of, load
from edgekd.schema import schema

MODULE = """
def student(width=8): ...
def teacher(): ...
def data(full=False): ...
"""

RECIPE = """\
seed = 3

[student]
factory = "net:student"
width = 16

[teacher]
factory = "net:teacher"

[data]
factory = "net:data"

[[stage]]
use = "distill"
losses = [{ use = "cross_entropy", weight = 0.5 }, { use = "kl", temperature = 4.0, weight = 0.5 }]
epochs = 12

[[stage]]
use = "prune"
criterion = "teacher_gap"
ratio = 0.3

[[stage]]
use = "quantize"
calibration = "train-512"

[targets]
names = ["host"]

[budget]
metric_drop = 0.01
latency_p90 = "0.5 ms"
size = "200 kB"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(MODULE)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def edited(folder: Path, old: str, new: str) -> Path:
    assert RECIPE.count(old) == 1
    (folder / "recipe.toml").write_text(RECIPE.replace(old, new))
    return folder / "recipe.toml"


def test_a_whole_recipe(folder: Path) -> None:
    recipe = load(folder / "recipe.toml")
    assert recipe.values.seed == 3
    assert recipe.values.student.arguments == {"width": 16}
    assert recipe.values.budget.latency_p90 == 0.0005
    assert recipe.values.budget.size == 200_000
    assert [type(s).__name__ for s in recipe.stages] == ["Distill", "Prune", "Quantize"]


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("width = 16", "widht = 16", ":5: student.widht: unknown key", "width"),
        ("epochs = 12", "epoch = 12", ":16: stage.0.epoch", "epochs"),
        ("epochs = 12", 'epochs = "many"', ":16: stage.0.epochs", ""),
        ("metric_drop = 0.01", "metric_drp = 0.01", ":31: budget.metric_drp: unknown key", "metric_drop"),
        ('"0.5 ms"', '"0.5 km"', ":32: budget.latency_p90", ""),
        ('"0.5 ms"', "0.5", ":32: budget.latency_p90", ""),
        ('"200 kB"', '"-200 kB"', ":33: budget.size", ""),
        ('size = "200 kB"', 'memory = "60"', ":33: budget.memory", ""),
        ('size = "200 kB"', "cold_start = 0.05", ":33: budget.cold_start", ""),
        ('"net:student"', '"nett:student"', ':4: student.factory: "nett:student": no module', "net"),
        ('"net:student"', '"net:studnt"', ":4: student.factory: ", "student"),
        ('"net:student"', '"student"', ":4: student.factory", "module:function"),
        ('use = "prune"', 'use = "prunee"', ':19: stage.1.use: no stage named "prunee"', "prune"),
        ("ratio = 0.3", "ratio = 1.5", ":21: stage.1.ratio", ""),
        ('"teacher_gap"', '"teacher_gapp"', ":20: stage.1.criterion", "teacher_gap"),
        ('"kl"', '"kll"', ":15: stage.0.losses", "kl"),
        ('"host"', '"hots"', ':28: targets.names: no target "hots"', "host"),
        ('"train-512"', '"train-51"', ':25: stage.2.calibration: no calibration "train-51"', "train-512"),
        ("seed = 3", "sede = 3", ":1: sede: unknown key", "seed"),
    ],
)
def test_mistakes_are_named_with_line_and_hint(folder: Path, old: str, new: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        load(edited(folder, old, new))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_files_that_are_not_there(folder: Path) -> None:
    changed = edited(folder, 'factory = "net:teacher"', 'factory = "net:teacher"\nweights = "teacher.safetensors"')
    with pytest.raises(UserError, match=r"weights: .*teacher.safetensors does not exist") as caught:
        load(changed)
    assert caught.value.hint == "paths are relative to the recipe"
    (folder / "teachers.safetensors").touch()
    with pytest.raises(UserError, match=r"weights: .*teacher.safetensors does not exist") as caught:
        load(changed)
    assert caught.value.hint == 'did you mean "teachers.safetensors"?'
    for wrong in (folder / "other.toml", folder):
        with pytest.raises(UserError, match="No such file|Is a directory") as caught:
            load(wrong)
        assert caught.value.hint == f"there is {folder / 'recipe.toml'}"
    (folder / "bad.toml").write_text("[student\n")
    with pytest.raises(UserError, match="not TOML"):
        load(folder / "bad.toml")


def test_stages_must_line_up(folder: Path) -> None:
    swapped = RECIPE.replace('use = "quantize"', 'use = "later"')
    swapped = swapped.replace('use = "prune"\ncriterion = "teacher_gap"\nratio = 0.3', 'use = "quantize"')
    swapped = swapped.replace('use = "later"\ncalibration = "train-512"', 'use = "prune"\nratio = 0.3')
    (folder / "recipe.toml").write_text(swapped)
    with pytest.raises(UserError, match=r'stage.2.use: "prune" takes a student, "quantize" gives a quantized'):
        load(folder / "recipe.toml")


def test_a_stage_that_needs_a_teacher(folder: Path) -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        load(edited(folder, '[teacher]\nfactory = "net:teacher"\n', ""))


def test_overrides(folder: Path) -> None:
    sets = ["distill.epochs=2", "seed=5", "student.width=24", "budget.size=100 kB", 'targets.names=["host"]']
    recipe = load(folder / "recipe.toml", sets)
    assert recipe.stages[0].epochs == 2  # type: ignore[attr-defined]
    assert (recipe.values.seed, recipe.values.student.arguments, recipe.values.budget.size) == (
        5,
        {"width": 24},
        100_000,
    )
    for bad in ("distil.epochs=2", "epochs=2", "distill.epochs"):
        with pytest.raises(UserError, match="--set"):
            load(folder / "recipe.toml", [bad])


def test_an_override_of_a_nested_table(folder: Path) -> None:
    recipe = load(folder / "recipe.toml", ["quantize.qat.epochs=1", 'quantize.qat.losses=[{ use = "kl" }]'])
    assert recipe.stages[2].qat.epochs == 1  # type: ignore[attr-defined]


def test_lines() -> None:
    assert line_of(RECIPE, ["stage", 2, "calibration"]) == 25
    assert line_of(RECIPE, ["stage", 1]) == 18
    assert line_of(RECIPE, ["budget", "none"]) == 30
    assert line_of(RECIPE, ["nowhere"]) is None


def test_the_schema_knows_every_stage_and_its_fields() -> None:
    found = schema()
    stages = {s["properties"]["use"]["const"]: s for s in found["properties"]["stage"]["items"]["oneOf"]}
    assert set(stages) == {"search", "distill", "puzzle", "prune", "quantize", "quantize_onnx", "quantize_weights"}
    assert "ratio" in stages["prune"]["properties"]
    assert found["$defs"]["BudgetSection"]["additionalProperties"] is False
    tables, word = stages["distill"]["properties"]["losses"]["anyOf"]
    assert "kl" in tables["items"]["properties"]["use"]["examples"] and word["const"] == "auto"
    assert "kl" in stages["search"]["properties"]["losses"]["items"]["properties"]["use"]["examples"]
    assert "taylor" in stages["prune"]["properties"]["criterion"]["examples"]
    assert "kl" in found["$defs"]["Qat"]["properties"]["losses"]["items"]["properties"]["use"]["examples"]
