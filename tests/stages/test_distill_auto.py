"""`losses = "auto"`, whole: it trains what it tries, keeps the best, and its recipe can be run again to the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_context, tiny_data, tiny_saved

from edgekd.search.budget import LossBudget
from edgekd.stages.distill import Distill
from edgekd.student import Student

pytest.importorskip("optuna", reason="pip install 'edgekd[search]'")

HIDDEN = replace(tiny_data(), test=(None, None))  # type: ignore[arg-type]  # whoever reads it fails
STAGE = Distill(losses="auto", budget=LossBudget(10, ("cross_entropy", "kl", "hint")), epochs=3, batch=64, lr=1e-2)


def run(folder: Path, stage: Distill = STAGE) -> tuple[Student, dict[str, Any]]:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    student = tiny_saved(folder / "in")
    facts = stage.run(student, tiny_context(folder, data=HIDDEN), folder / "out")
    return Student(folder / "out", student.factory), json.loads(json.dumps(facts))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Student, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("auto")
    return folder, *run(folder)


def test_it_tells_what_it_tried_and_keeps_to_the_budget(found: tuple[Path, Student, dict[str, Any]]) -> None:
    folder, _, facts = found
    told = facts["auto"]
    assert told["budget"] == 10 >= told["spent"] > 6
    assert [one["verdict"] for one in told["tried"]].count("chosen") == 1
    chosen = next(one for one in told["tried"] if one["verdict"] == "chosen")
    assert chosen["epochs"] == 3 and chosen["validation"] == facts["epochs"][facts["best"]]["validation"]
    assert 'use = "cross_entropy", weight = 0.5 }' in told["tried"][0]["what"]
    assert all(one["validation"] is None or 0 <= one["validation"] <= 1 for one in told["tried"])
    left = sorted(path.name for path in (folder / "work").iterdir() if path.is_dir())
    assert all(name.endswith("-3") for name in left), "short trainings leave no checkpoints"


def test_the_losses_that_were_found_give_the_same_weights_by_themselves(
    found: tuple[Path, Student, dict[str, Any]], tmp_path: Path
) -> None:
    _, student, facts = found
    plain = replace(STAGE, losses=tuple(facts["auto"]["losses"]), budget=None)
    again, _ = run(tmp_path, plain)
    assert all(torch.equal(a, b) for a, b in zip(student.weights().values(), again.weights().values(), strict=True))


def test_going_on_trains_nothing_again(
    found: tuple[Path, Student, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, student, facts = found
    monkeypatch.setattr("edgekd.training.train._epoch", lambda *_: pytest.fail("trained again"))
    again, told = run(folder)
    assert told == facts
    assert all(torch.equal(a, b) for a, b in zip(student.weights().values(), again.weights().values(), strict=True))
