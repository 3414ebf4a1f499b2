"""[train] in a recipe: what enters the keys, what is refused, and a whole recipe in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from project import BRIEF, new_project

from edgekd.errors import UserError
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.ranks import check
from edgekd.pipeline.run import cached
from edgekd.progress import Progress
from edgekd.recipe import load
from edgekd.store import Store
from edgekd.workers import INSTALL

ABSENT = find_spec("lightning_fabric") is None
ONE = ["distill.epochs=2", "quantize.qat.epochs=1"]


def planned(recipe: Path, store: Path, *sets: str) -> Plan:
    return Plan(load(recipe, [*ONE, *sets]), Store(store), Progress(quiet=True))


def test_how_it_is_computed_is_in_the_key_and_who_computes_it_is_not(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "ranked_keys")
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
def test_what_is_not_installed_is_said_with_the_command(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "absent")
    for setting in ("train.devices=2", "train.precision=bf16-mixed"):
        with pytest.raises(UserError, match=f"{setting.partition('=')[0]}: needs Lightning Fabric") as caught:
            check(planned(recipe, tmp_path / "store", setting))
        assert caught.value.hint == INSTALL


@pytest.mark.slow
@pytest.mark.skipif(ABSENT, reason=INSTALL)
def test_two_processes_take_part_in_a_recipe(tmp_path: Path) -> None:
    """They distil, prune and train the graph of a quantized student; what is distilled is compared with one process's."""
    recipe, store = new_project(tmp_path / "shared"), tmp_path / "store"
    alone = planned(recipe, tmp_path / "one")
    for plan, until in ((alone, "distill"), (planned(recipe, store, "train.devices=2"), "quantize")):
        for step in plan.steps.values():
            plan.entries[step.label] = plan.store.make(step.key, step.label, step.make)
            if step.label == until:
                break
    assert not list((store / "tmp").iterdir())
    for name, value in alone.student("distill").weights().items():
        torch.testing.assert_close(plan.student("distill").weights()[name], value, rtol=0.05, atol=0.02)
    epochs = plan.entry("quantize").facts["qat"]["epochs"]
    assert len(epochs) == 1 and epochs[0]["validation"] > 0.5
    assert cached(planned(recipe, store))["quantize"]  # by one process, which finds what two made


@pytest.mark.slow
@pytest.mark.skipif(ABSENT, reason=INSTALL)
def test_torchrun_starts_the_processes(tmp_path: Path) -> None:
    """The first process runs the recipe, the second trains with it, and both end."""
    recipe = new_project(tmp_path / "nodes")
    text = recipe.read_text()
    stages = text.split("[[stage]]")
    recipe.write_text(stages[0] + "[[stage]]" + stages[1] + '[targets]\nbackends = ["null"]\n')
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgekd"]
    asked = ["compile", recipe, "--store", tmp_path / "store", "--out", tmp_path / "out", *BRIEF]
    done = subprocess.run(
        [*words, *map(str, asked)],
        capture_output=True, text=True, check=False, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["ledger"]
    assert "distilled" in [row["row"] for row in rows]
