"""The quantize stage: a float student in, integers out, rebuilt to the bit from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import accuracy, tiny_context, tiny_data, tiny_saved, tiny_student
from torch import nn

from edgekd import registry
from edgekd.errors import UserError
from edgekd.quant.grid import AFFINE
from edgekd.quant.precision import Precision
from edgekd.quant.pt2e import calibrate, convert, prepare
from edgekd.stage import uses
from edgekd.student import Student, write_tensors
from edgekd.teachers.module import Module
from edgekd.training.objective import Objective
from edgekd.training.train import logits_of

KL = {"use": "kl", "temperature": 2.0}


def quantized(tmp_path: Path, **fields: object) -> tuple[Student, dict[str, object]]:
    before, out = tmp_path / "before", tmp_path / "out"
    before.mkdir(), out.mkdir()
    student = tiny_saved(before, trained=True)
    stage = registry.build("stages", "quantize", fields)
    facts = stage.run(student, tiny_context(tmp_path), out)
    return Student(out, tiny_student), facts


def test_calibration_alone_keeps_the_accuracy(tmp_path: Path) -> None:
    student, facts = quantized(tmp_path, observer="minmax")
    assert student.quantized == {
        "edit": "quantize", "grid": "affine", "observer": "minmax", "qat": False, "precision": Precision().to_json()
    }  # fmt: skip
    inputs, targets = tiny_data().validation
    float_score = accuracy(logits_of(tiny_student(trained=True).eval(), inputs).numpy(), targets.numpy())
    score = accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy())
    assert abs(score - float_score) <= 0.05
    assert facts["calibrated"] == pytest.approx(score, abs=0.02)


def test_the_program_is_rebuilt_from_the_folder(tmp_path: Path) -> None:
    student, _ = quantized(tmp_path, observer="minmax")
    inputs = tiny_data().validation[0]
    graph = prepare(tiny_student(trained=True).eval(), inputs[:2], AFFINE, "minmax", qat=False)
    calibrate(graph, tiny_context(tmp_path).calibration())
    assert torch.equal(logits_of(student.module(), inputs), logits_of(convert(graph), inputs))


def test_qat_learns_from_the_teacher(tmp_path: Path) -> None:
    student, facts = quantized(tmp_path, observer="mse", qat={"epochs": 2, "losses": [KL]})
    history = facts["qat"]
    assert isinstance(history, dict) and len(history["epochs"]) == 2
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"]
    inputs = tiny_data().validation[0]
    fake, program = logits_of(student.fake_quantized(), inputs), logits_of(student.module(), inputs)
    assert bool((fake.argmax(1) == program.argmax(1)).float().mean() > 0.98)


def test_pruned_and_quantized_it_is_trained_once(tmp_path: Path) -> None:
    """Channels go without recovery; training with fake quantization is the recovery."""
    context, inputs, targets = tiny_context(tmp_path), *tiny_data().validation
    whole, narrow, out = (tmp_path / name for name in ("whole", "narrow", "out"))
    narrow.mkdir(), out.mkdir()
    student = tiny_saved(whole, trained=True)
    pruning = {"ratio": 0.4, "epochs": 0, "samples": 64}
    before = registry.build("stages", "prune", pruning).run(student, context, narrow)["before"]
    qat = {"epochs": 6, "batch": 32, "lr": 1e-2, "losses": [KL]}
    stage = registry.build("stages", "quantize", {"observer": "minmax", "qat": qat})
    facts = stage.run(Student(narrow, student.factory), context, out)
    found = Student(out, student.factory)
    assert [edit["edit"] for edit in found.edits] == ["prune", "quantize"]
    score = accuracy(logits_of(found.module(), inputs).numpy(), targets.numpy())
    assert score > facts["calibrated"] + 0.05 and score >= before["validation"] - 0.1


def test_every_loss_on_logits_trains_a_fake_quantized_graph() -> None:
    """In one objective, with a gradient to the graph from each."""
    names = [n for n in registry.names("losses") if registry.constant("losses", n, "wants") in ("labels", "logits")]
    inputs, targets = (x[:8] for x in tiny_data().train)
    graph = prepare(tiny_student(trained=True).eval(), inputs[:2], AFFINE, "minmax", qat=True)
    calibrate(graph, [inputs])
    graph.eval()
    objective = Objective(uses([{"use": name} for name in names], "losses"), lambda: Module(tiny_student(16, 7)))
    objective.prepare(graph, inputs, targets, seed=0)
    found = objective(graph, inputs, targets)
    assert list(found) == names
    assert all(value.isfinite() for value in found.values())


def test_what_it_reads_follows_from_its_fields() -> None:
    def reads(**fields: object) -> frozenset[str]:
        found: frozenset[str] = registry.build("stages", "quantize", fields).reads
        return found

    assert reads() == {"calibration", "target"}
    assert reads(qat={"losses": [{"use": "cross_entropy"}]}) == {"calibration", "target", "data"}
    assert reads(qat={"losses": [KL]}) == {"calibration", "target", "data", "teacher"}


@pytest.mark.parametrize(
    "fields",
    [
        {"qat": {"losses": []}},
        {"qat": {"losses": [KL], "freeze": 1.5}},
        {"qat": {"losses": [KL], "lr": -1.0}},
        {"qat": {"losses": [{"temperature": 2.0}]}},
        {"qat": {"losses": [{"use": "kl", "weight": 0}]}},
        {"bits": 4},
        {"weights": 1},
        {"activations": 17},
        {"first_last": 16},
        {"reconstruction": "adaptive"},
        {"reconstruction": {"use": "block", "drop": 1.0}},
        {"reconstruction": "block", "qat": {"losses": [KL]}},
        {"qat": {"losses": [KL], "teacher": "nobody"}},
        {"qat": {"losses": [KL]}, "equalize": True},
        {"reconstruction": "block", "correct_bias": True},
    ],
)
def test_wrong_fields(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="quantize"):
        registry.build("stages", "quantize", fields)


def test_the_precision_follows_from_the_bits() -> None:
    def precision(**fields: object) -> str:
        found: str = registry.build("stages", "quantize", fields).precision
        return found

    assert precision() == precision(reconstruction="block") == "int8"
    assert precision(weights=4, activations=4) == "W4A4"
    assert precision(activations=16) == "W8A16"


@pytest.mark.parametrize("use", ["adaround", "block"])
def test_reconstruction_is_rebuilt_from_the_folder_and_loses_less(tmp_path: Path, use: str) -> None:
    options = {"use": use, "iterations": 60}
    student, facts = quantized(tmp_path, weights=2, activations=4, reconstruction=options)
    parts = facts["reconstruction"]
    assert isinstance(parts, list)
    assert [part["part"] for part in parts] == {
        "block": ["stem.0", "block.conv1 … block.conv2", "down.0", "head"],
        "adaround": ["stem.0", "block.conv1", "block.conv2", "down.0", "head"],
    }[use]
    assert sum(part["after"] for part in parts) < 0.9 * sum(part["before"] for part in parts)
    inputs, targets = tiny_data().validation
    score = accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy())
    assert facts["reconstructed"] == pytest.approx(score, abs=0.021)
    held = student.module().state_dict()
    assert max(len(value.unique()) for value in held.values() if value.ndim == 4 and value.shape[1] > 1) <= 4


def test_the_float_student_as_teacher_and_learned_steps(tmp_path: Path) -> None:
    qat = {"epochs": 1, "losses": [KL], "teacher": "both", "step_size": "learned"}
    student, facts = quantized(tmp_path, observer="minmax", weights=4, activations=4, qat=qat)
    history = facts["qat"]
    assert isinstance(history, dict) and history["epochs"][0]["loss"] < 1
    inputs, targets = tiny_data().validation
    score = accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy())
    assert history["epochs"][0]["validation"] == pytest.approx(score, abs=0.031)
    stage = registry.build("stages", "quantize", {"qat": {**qat, "teacher": "student"}})
    assert stage.reads == {"calibration", "target", "data"}


def test_equalized_and_corrected_it_is_rebuilt_from_the_folder(tmp_path: Path) -> None:
    student, facts = quantized(tmp_path, weights=3, equalize=True, correct_bias=True, smooth=True)
    assert (facts["equalized"], facts["smoothed"], facts["corrected"]) == (2, 0, 5)
    inputs, targets = tiny_data().validation
    score = accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy())
    assert facts["samples"] == 64
    assert score > 0.8


class Sound(nn.Module):
    """images [n, 1, 12, 12] as 12 rows of 12: convolved along one axis, through a linear layer or not."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.rows = nn.Conv1d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 4) if linear else nn.Conv1d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.rows(x.flatten(1, 2)))
        return self.head(x.mean(2)) if isinstance(self.head, nn.Linear) else self.head(x).mean(2)


def test_a_layer_without_integer_kernels_stays_in_float_and_is_named(tmp_path: Path) -> None:
    before = tiny_saved(tmp_path / "before")
    write_tensors(before.path / "weights.safetensors", Sound(linear=True).state_dict())
    (tmp_path / "out").mkdir()
    stage = registry.build("stages", "quantize", {})
    student = Student(before.path, lambda **_: Sound(linear=True))
    facts = stage.run(student, tiny_context(tmp_path), tmp_path / "out")
    assert facts["without_kernels"] == {"rows": "conv1d"}
    assert [row["layer"] for row in facts["sensitivity"]["layers"]] == ["head"]
    write_tensors(before.path / "weights.safetensors", Sound(linear=False).state_dict())
    student = Student(before.path, lambda **_: Sound(linear=False))
    with pytest.raises(UserError, match=r"no layer .* can be quantized: rows \(conv1d\), head \(conv1d\)") as error:
        stage.run(student, tiny_context(tmp_path), tmp_path / "out")
    assert "leave the stage out" in error.value.hint
