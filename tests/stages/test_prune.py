"""The prune stage, whole: widths, edits that replay, recovery, and what is said when nothing can be pruned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import accuracy, tiny_context, tiny_data, tiny_saved, tiny_student
from torch import nn

from edgekd import registry
from edgekd.errors import UserError
from edgekd.stages.prune import Prune
from edgekd.student import Student, save
from edgekd.training.train import logits_of

torch.set_num_threads(1)
SCORING = [n for n in registry.names("criteria") if registry.constant("criteria", n, "needs") != "training"]


def pruned(
    folder: Path, stage: Prune, student: Student | None = None, **changes: Any
) -> tuple[Student, dict[str, Any]]:
    student = student or tiny_saved(folder / "in", trained=True)
    out = folder / "out"
    out.mkdir(parents=True)
    facts = stage.run(student, tiny_context(folder, **changes), out)
    json.dumps(facts)
    return Student(out, student.factory), facts


def widths(student: Student) -> dict[str, list[int]]:
    return {n: list(w.shape) for n, w in student.weights().items() if w.dim() > 1}


def score(student: Student) -> float:
    inputs, targets = tiny_data().validation
    return accuracy(logits_of(student.network(), inputs).numpy(), targets.numpy())


@pytest.mark.parametrize("criterion", SCORING)
def test_every_criterion_prunes_to_the_channel_multiple(tmp_path: Path, criterion: str) -> None:
    stage = Prune(ratio=0.5, criterion=criterion, scope="per_group", epochs=0, samples=64)
    student, facts = pruned(tmp_path, stage, channel_multiple=4)
    assert facts["groups"] == {
        "stem.0": {"before": 8, "after": 4},
        "block.conv1": {"before": 8, "after": 4},
        "down.0": {"before": 16, "after": 8},
    }
    assert facts["whole"] == {"head": "its channels are the network's outputs"}
    assert widths(student) == {
        "stem.0.weight": [4, 1, 3, 3], "block.conv1.weight": [4, 4, 3, 3], "block.conv2.weight": [4, 4, 3, 3],
        "down.0.weight": [8, 4, 3, 3], "head.weight": [4, 8],
    }  # fmt: skip
    (edit,) = student.edits
    assert (edit["edit"], edit["criterion"], edit["ratio"]) == ("prune", criterion, 0.5)
    assert facts["pruned"]["validation"] == score(student)
    weights = sum(
        value.numel() for name, value in student.weights().items() if "running" not in name and "num" not in name
    )
    assert facts["pruned"]["parameters"] == weights
    macs = 12 * 12 * 9 * (1 * 4 + 4 * 4 + 4 * 4) + 6 * 6 * 9 * 4 * 8 + 8 * 4  # pixels · kernel · in · out
    assert facts["pruned"]["macs"] == macs < facts["before"]["macs"]


def test_recovery_brings_the_metric_back_and_the_artefact_replays(tmp_path: Path) -> None:
    student, facts = pruned(tmp_path, Prune(ratio=0.4, epochs=8, batch=32, lr=1e-2, samples=64))
    assert facts["recovered"]["validation"] == score(student)
    assert facts["recovered"]["validation"] >= facts["pruned"]["validation"]
    assert facts["recovered"]["validation"] >= facts["before"]["validation"] - 0.1
    assert len(facts["recovery"]["epochs"]) == 8


def test_the_same_seed_gives_the_same_student(tmp_path: Path) -> None:
    stage = Prune(ratio=0.4, epochs=1, samples=64)
    first, second = (pruned(tmp_path / name, stage)[0] for name in ("a", "b"))
    assert first.edits == second.edits
    weights = second.weights()
    assert all(torch.equal(value, weights[name]) for name, value in first.weights().items())


def test_a_second_prune_stacks_its_edit_on_the_first(tmp_path: Path) -> None:
    stage = Prune(ratio=0.25, scope="per_group", epochs=0, samples=64)
    once, _ = pruned(tmp_path / "1", stage, channel_multiple=2)
    twice, facts = pruned(tmp_path / "2", stage, once, channel_multiple=2)
    assert [edit["edit"] for edit in twice.edits] == ["prune", "prune"]
    assert facts["groups"]["down.0"] == {"before": 12, "after": 10}  # 9 is halfway between 8 and 10
    assert facts["before"]["validation"] == score(once)
    assert facts["pruned"]["validation"] == score(twice)


def test_a_global_ratio_takes_channels_where_they_are_missed_least(tmp_path: Path) -> None:
    _, facts = pruned(tmp_path, Prune(ratio=0.5, epochs=0, samples=64))
    left = [group["after"] / group["before"] for group in facts["groups"].values()]
    assert min(left) < max(left)
    assert sum(group["after"] for group in facts["groups"].values()) == 16


def test_a_group_no_wider_than_the_multiple_stays_whole(tmp_path: Path) -> None:
    _, facts = pruned(tmp_path, Prune(ratio=0.5, scope="per_group", epochs=0, samples=64), channel_multiple=8)
    assert facts["groups"]["stem.0"] == {"before": 8, "after": 8}
    assert facts["groups"]["down.0"] == {"before": 16, "after": 8}


def test_the_teacher_is_not_asked_where_nothing_needs_it(tmp_path: Path) -> None:
    asked = []
    pruned(
        tmp_path, Prune(ratio=0.5, criterion="taylor", epochs=0, samples=64), teacher_logits=lambda *a: asked.append(a)
    )
    assert asked == []


def test_rounding_that_undoes_the_ratio_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rounds back") as caught:
        pruned(tmp_path, Prune(ratio=0.3, epochs=0), channel_multiple=16)
    assert "channel multiple is 16" in caught.value.hint


def test_a_student_with_no_prunable_group_is_an_error_that_says_why(tmp_path: Path) -> None:
    def factory() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(144, 4))

    source = tiny_saved(tmp_path / "in")
    save(source.path, factory().state_dict(), [], source.signature, {})
    with pytest.raises(UserError, match=r"no group.*its channels are the network's outputs") as caught:
        pruned(tmp_path, Prune(ratio=0.3), Student(source.path, factory))
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 1.5}, "ratio: Input should be less than 1"),
        ({"ratio": 0.0}, "ratio: Input should be greater than 0"),
        ({}, "ratio: "),
        ({"ratio": 0.3, "scope": "layer"}, "scope: "),
        ({"ratio": 0.3, "samples": 0}, "samples: "),
        ({"ratio": 0.3, "losses": []}, "losses: there is none"),
    ],
)
def test_wrong_fields_are_said_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.build("stages", "prune", fields)
    assert message in caught.value.message
    assert caught.value.exit_code == 2


def test_check_builds_what_the_fields_name() -> None:
    stage = Prune(ratio=0.3, criterion="taylor", losses=({"use": "kl", "temperature": 4.0},))
    assert stage.names() == [("criterion", "criteria", "taylor"), ("losses", "losses", "kl")]
    stage.check()
    with pytest.raises(UserError, match="temperature"):
        Prune(ratio=0.3, losses=({"use": "kl", "temperature": -1.0},)).check()
    with pytest.raises(UserError, match="magnitud"):
        Prune(ratio=0.3, criterion="magnitud").check()


def test_reading_the_stage_needs_no_torch() -> None:
    code = "import sys, edgekd.stages.prune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tampered_edit_is_refused_when_the_student_is_built(tmp_path: Path) -> None:
    student, _ = pruned(tmp_path, Prune(ratio=0.5, epochs=0, samples=64))
    (edit,) = student.edits
    edit["kept"]["stem.0"]["out"] = [0, 99]
    (student.path / "edits.json").write_text(json.dumps([edit]))
    with pytest.raises(UserError, match=r'"stem.0": "out" keeps channel 99, there are 8'):
        student.network()
    assert tiny_student()  # the factory itself is fine
