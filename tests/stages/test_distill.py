"""The distill stage, whole: it learns, it survives a kill, it says what is wrong."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TinyNet, noisy, tiny_context, tiny_data, tiny_saved, tiny_student

from edgekd import registry
from edgekd.errors import UserError
from edgekd.stages.distill import Distill
from edgekd.student import Student
from edgekd.teachers.module import Module
from edgekd.training.train import logits_of

LOSSES = (
    {"use": "cross_entropy", "weight": 0.5},
    {"use": "kl", "temperature": 2.0},
    {"use": "hint", "student": "block", "teacher": "block", "weight": 0.1},
)

# The same stage in a process of its own; given a number, it kills itself in that forward pass of training.
CHILD = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from tiny import TinyNet, noisy, tiny_context, tiny_data, tiny_saved, tiny_student
from edgekd.stages.distill import Distill
from edgekd.teachers.module import Module

folder, kill_at, count = Path(sys.argv[1]), int(sys.argv[2]), 0
original = TinyNet.forward

def forward(self, x):
    global count
    count += self.training
    if self.training and count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, x)

TinyNet.forward = forward
stage = Distill(losses=({"use": "cross_entropy"}, {"use": "kl"}), epochs=3, batch=48, views=2)
student = tiny_saved(folder / "in")
(folder / "out").mkdir(exist_ok=True)
teacher = Module(tiny_student(16, 7))
stage.run(student, tiny_context(folder, data=replace(tiny_data(), augment=noisy), teacher=teacher), folder / "out")
print("steps", count)
"""


def distilled(
    folder: Path, stage: Distill, student: Student | None = None, **context: Any
) -> tuple[Student, dict[str, Any]]:
    (folder / "out").mkdir(parents=True)
    student = student or tiny_saved(folder / "in")
    facts = stage.run(student, tiny_context(folder, **context), folder / "out")
    return Student(folder / "out", student.factory), facts


def test_the_student_learns_from_its_teacher(tmp_path: Path) -> None:
    stage = Distill(losses=LOSSES, epochs=8, batch=32, lr=2e-2)
    student, facts = distilled(tmp_path, stage)
    inputs, targets = tiny_data().test
    right = (logits_of(student.network(), inputs).argmax(1) == targets).float().mean()
    assert right > 0.8
    assert len(facts["epochs"]) == 8
    assert facts["epochs"][0]["terms"].keys() == {"cross_entropy", "kl", "hint"}


def test_what_is_written_is_the_student_alone(tmp_path: Path) -> None:
    """The hint's projector is gone, and loading is strict."""
    student, _ = distilled(tmp_path, Distill(losses=LOSSES, epochs=1))
    assert student.weights().keys() == tiny_student().state_dict().keys()
    assert student.edits == []
    assert student.signature == Student(tmp_path / "in", tiny_student).signature
    assert all(value.is_contiguous() for value in student.weights().values())


def test_a_student_without_weights_is_drawn_from_the_seed(tmp_path: Path) -> None:
    def drawn(name: str, seed: int) -> dict[str, torch.Tensor]:
        given = Student(tiny_saved(tmp_path / name / "in").path, TinyNet)
        (given.path / "weights.safetensors").unlink()
        return distilled(tmp_path / name, Distill(losses=LOSSES, epochs=1), given, seed=seed)[0].weights()

    first, second, other = drawn("a", 0), drawn("b", 0), drawn("c", 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_it_starts_from_the_weights_that_it_is_given(tmp_path: Path) -> None:
    inputs, targets = tiny_data().test
    student, _ = distilled(
        tmp_path, Distill(losses=LOSSES, epochs=1, lr=1e-6), tiny_saved(tmp_path / "in", trained=True)
    )
    assert (logits_of(student.network(), inputs).argmax(1) == targets).float().mean() > 0.9


def test_killed_in_the_middle_of_an_epoch_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "tests")])

    def child(folder: str, kill_at: int = -1) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", CHILD, str(tmp_path / folder), str(kill_at)]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment, timeout=120)

    (tmp_path / "cut").mkdir()
    killed = child("cut", kill_at=9)  # three passes into the second of three epochs of six
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not any((tmp_path / "cut" / "out").iterdir())
    resumed = child("cut")
    assert resumed.stdout == "steps 12\n", resumed.stderr
    stage = Distill(losses=({"use": "cross_entropy"}, {"use": "kl"}), epochs=3, batch=48, views=2)
    brought = {"data": replace(tiny_data(), augment=noisy), "teacher": Module(tiny_student(16, 7))}
    whole, _ = distilled(tmp_path / "whole", stage, **brought)
    names = ("weights.safetensors", "edits.json", "signature.json", "student.json")
    assert all((tmp_path / "cut" / "out" / n).read_bytes() == (whole.path / n).read_bytes() for n in names)


def test_ctrl_c_passes_through_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    calls = iter([0.5, 0.5])

    def metric(outputs: object, targets: object) -> float:
        try:
            return next(calls)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        distilled(tmp_path, Distill(losses=LOSSES, epochs=3), metric=metric)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["distill.checkpoint"]
    assert not any((tmp_path / "out").iterdir())


def test_other_classes_than_the_teachers_are_said_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"teacher gives logits \[2, 7\], the student \[2, 4\]"):
        distilled(tmp_path, Distill(losses=LOSSES), teacher=Module(TinyNet(8, classes=7)))


def test_only_labels_need_no_teacher(tmp_path: Path) -> None:
    stage = Distill(losses=({"use": "cross_entropy"},), epochs=1)
    assert stage.reads == {"data"}
    assert Distill(losses=LOSSES).reads == {"data", "teacher"}

    def nobody() -> Module:
        raise AssertionError("the teacher was asked for")

    (tmp_path / "out").mkdir()
    context = replace(tiny_context(tmp_path), teacher=nobody)
    stage.run(tiny_saved(tmp_path / "in"), context, tmp_path / "out")


def test_its_fields_name_the_losses(tmp_path: Path) -> None:
    expected = [("losses", "losses", name) for name in ("cross_entropy", "kl", "hint")]
    assert Distill(losses=LOSSES).names() == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": []}, "distill: losses: there is none"),
        ({"losses": [{"weight": 1}]}, "distill: losses: an entry has no `use`"),
        ({"losses": [{"use": "kl", "weight": 0}]}, 'distill: losses: weight of "kl" is 0'),
        ({"losses": [{"use": "kl"}], "epochs": 0}, 'the stage "distill": epochs: .*greater than or equal to 1'),
        ({"losses": [{"use": "kl"}], "optimizer": "lion"}, 'the stage "distill": optimizer: .*adamw'),
        ({"losses": [{"use": "kl"}], "epoch": 3}, 'has no field "epoch"\nhint: did you mean "epochs"'),
        ({}, 'the stage "distill": losses: Field required'),
    ],
)
def test_a_wrong_field_is_said_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.build("stages", "distill", fields)


@pytest.mark.parametrize(
    ("loss", "message"),
    [({"use": "kl", "temperature": 0}, 'the loss "kl": temperature: '), ({"use": "kll"}, 'no loss named "kll"')],
)
def test_check_builds_the_losses(loss: dict[str, Any], message: str) -> None:
    stage = registry.build("stages", "distill", {"losses": [loss]})
    with pytest.raises(UserError, match=message):
        stage.check()


def test_it_is_read_without_torch() -> None:
    code = "import sys, edgekd.stages.distill; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60, check=False)
    assert done.returncode == 0


def test_generations_are_born_again_and_assistants_stand_between(tmp_path: Path) -> None:
    """The student of a stage teaches the next: a wider assistant, then the student itself from new random weights."""
    labels, learn = ({"use": "cross_entropy"},), ({"use": "kl", "temperature": 2.0},)
    assert Distill(losses=learn, teacher="student").reads == {"data"}
    fields = {"epochs": 8, "batch": 32, "lr": 2e-2}
    first, _ = distilled(
        tmp_path / "a", Distill(losses=labels, fresh=True, arguments={"width": 12}, **fields), teacher=Nobody()
    )
    again = Distill(losses=learn, teacher="student", fresh=True, **fields)
    second, facts = distilled(tmp_path / "b", again, first, teacher=Nobody())
    third, _ = distilled(tmp_path / "c", again, second, teacher=Nobody())
    assert [s.weights()["head.weight"].shape[1] for s in (first, second, third)] == [24, 16, 16]
    assert first.network().head.in_features == 24 and third.network().head.in_features == 16
    assert facts["epochs"][-1]["loss"] < facts["epochs"][0]["loss"]
    inputs, targets = tiny_data().test
    for student in (first, second, third):
        assert (logits_of(student.network(), inputs).argmax(1) == targets).float().mean() > 0.6
    assert not torch.equal(second.weights()["stem.0.weight"], third.weights()["stem.0.weight"])
    same, _ = distilled(tmp_path / "d", again, first, teacher=Nobody())
    assert all(torch.equal(value, same.weights()[name]) for name, value in second.weights().items())


class Nobody(Module):
    """A teacher that must not be asked."""

    def __init__(self) -> None:
        super().__init__(TinyNet())

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the teacher was asked")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"losses": [{"use": "kl"}], "arguments": {"width": 9}}, "distill: arguments: they make a new student"),
        ({"losses": [{"use": "cross_entropy"}], "teacher": "student"}, "distill: teacher: no loss asks a teacher"),
        ({"losses": [{"use": "kl"}], "teacher": "pupil"}, 'the stage "distill": teacher: .*student'),
    ],
)
def test_a_wrong_chain_is_said_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.build("stages", "distill", fields)
