"""[train] in a recipe: what enters the keys, what is refused, and a whole recipe in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from project import BRIEF, command, new_project
from safetensors.torch import load_file

from edgekd.errors import UserError
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.ranks import check
from edgekd.progress import Progress
from edgekd.recipe import load
from edgekd.store import Store
from edgekd.workers import INSTALL

ABSENT = find_spec("lightning_fabric") is None
ONE = ["distill.epochs=2", "quantize.qat.epochs=1"]


def planned(recipe: Path, store: Path, *sets: str) -> Plan:
    return Plan(load(recipe, [*ONE, *sets]), Store(store), Progress(quiet=True))


def test_how_it_is_computed_is_in_the_key_and_who_computes_it_is_not(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "keyed")
    first, shared, parts, mixed = (
        {name: step.key for name, step in planned(recipe, tmp_path / "store", *sets).steps.items()}
        for sets in ([], ["train.devices=2"], ["train.accumulate=2"], ["train.precision=bf16-mixed"])
    )
    assert first == shared
    assert first["student"] == parts["student"]
    assert len({keys["distill"] for keys in (first, parts, mixed)}) == 3
    bare = ["prune.epochs=0", "train.accumulate=2"]
    pruned = [planned(recipe, tmp_path / "store", "prune.epochs=0", *more).steps for more in ([], bare[1:])]
    assert pruned[0]["prune"].key != pruned[1]["prune"].key  # what is before it was trained


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.devices=0", "train.devices: Input should be greater than or equal to 1"),
        ("train.device=2", 'train.device: unknown key hint: did you mean "devices"?'),
        ("train.precision=fp8", "train.precision: Input should be '32' or 'bf16-mixed'"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, setting: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(new_project(tmp_path / "wrong"), tmp_path / "store", setting)
    assert said in " ".join(str(caught.value).split())


@pytest.mark.skipif(not ABSENT, reason="Lightning Fabric is installed")
@pytest.mark.parametrize("setting", ["train.devices=2", "train.precision=bf16-mixed"])
def test_what_is_not_installed_is_said_with_the_command(tmp_path: Path, setting: str) -> None:
    with pytest.raises(UserError, match=f"{setting.partition('=')[0]}: needs Lightning Fabric") as caught:
        check(planned(new_project(tmp_path / "absent"), tmp_path / "store", setting))
    assert caught.value.hint == INSTALL


@pytest.mark.slow
@pytest.mark.skipif(ABSENT, reason=INSTALL)
def test_a_recipe_in_two_processes_makes_the_student_of_one(tmp_path: Path) -> None:
    """Distilled, pruned and quantized: started by edgekd, and by torchrun; then found by one process."""
    recipe = new_project(tmp_path / "shared")
    (recipe.parent / "out").mkdir()
    arguments = ["compile", recipe, *BRIEF, "--out", recipe.parent / "out"]
    arguments += [word for one in ONE for word in ("--set", one)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "edgekd"]
    ways = {
        "one": command(*arguments),
        "two": command(*arguments, "--set", "train.devices=2"),
        "torchrun": [*torchrun, *map(str, arguments)],
    }
    weights = {}
    for name, words in ways.items():
        store = tmp_path / name
        done = subprocess.run(
            [*words, "--store", str(store)],
            capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr  # 1: none keeps the budget
        plan = planned(recipe, store)
        entries = {step: plan.store.get(plan.steps[step].key) for step in ("distill", "prune", "quantize")}
        assert None not in entries.values(), done.stderr
        weights[name] = load_file(entries["distill"].path / "weights.safetensors")  # type: ignore[union-attr]
        assert not list((store / "tmp").iterdir())
    for way in ("two", "torchrun"):
        for name, value in weights["one"].items():
            torch.testing.assert_close(weights[way][name], value, rtol=0.05, atol=0.02)
