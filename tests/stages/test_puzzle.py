"""The puzzle stage, whole, on a simulated device whose latency is a fixed cost and the multiply-accumulates: all by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks.networks import Mobile, encoder
from tiny import accuracy, tiny_context, tiny_data, tiny_saved

from edgekd import registry
from edgekd.blocks.budget import Timed
from edgekd.errors import UserError
from edgekd.latency.table import Kind, Measured
from edgekd.pipeline.judge import size
from edgekd.stages.puzzle import Puzzle
from edgekd.store import Entry, Store
from edgekd.student import Student, replay, save
from edgekd.training.train import logits_of

KIND = Kind("null", "float32")
HIDDEN = replace(tiny_data(), test=(None, None))  # type: ignore[arg-type]  # whoever reads it fails
BRIEF = {"samples": 128, "epochs": 2, "batch": 32, "lr": 1e-2}
IDLE = "separable"
"""What the device is slow at: it takes as long as the block."""


def macs(student: Student, edits: Sequence[Any]) -> int:
    network = student.unloaded()
    replay(network, edits)
    return size(network.eval(), student.example())["macs"]


def seconds(student: Student, edits: Sequence[Any]) -> float:
    """10 µs and 1 ns for each multiply-accumulate; a separable convolution takes what the block takes."""
    kinds = [kind for edit in edits if edit["edit"] == "replace" for kind in edit["blocks"].values()]
    slow = any(kind["use"] == IDLE for kind in kinds) and len(kinds) == 1
    return 10e-6 + 1e-9 * macs(student, [] if slow else edits)


def memory(student: Student, edits: Sequence[Any]) -> int:
    """40 MB and a kilobyte for each parameter."""
    network = student.unloaded()
    replay(network, edits)
    return 40_000_000 + 1000 * sum(p.numel() for p in network.parameters())


class Device:
    """Says what students take, keeps what a stage keeps, and counts both."""

    def __init__(self, folder: Path, student: Student) -> None:
        self.store, self.student = Store(folder / "store"), student
        self.trained: list[str] = []
        self.raced: list[int] = []
        self.stop_at = 10**9

    def race(self, edits: Sequence[Any], label: str) -> tuple[list[dict[Kind, Timed]], dict[int, str]]:
        self.raced.append(len(edits))
        whole = seconds(self.student, edits[0])
        times = [seconds(self.student, one) for one in edits]
        held = [memory(self.student, one) for one in edits]
        shares = [t / whole for t in times]
        rows = zip(times, shares, held, strict=True)
        return [{KIND: Timed(Measured(t, s, s, s, memory=m), 1000)} for t, s, m in rows], {}

    def kept(self, label: str, of: Any, make: Any) -> Entry:
        from edgekd import digest

        def counted(out: Path) -> Any:
            if len(self.trained) == self.stop_at:
                raise KeyboardInterrupt
            self.trained.append(label)
            return make(out)

        return self.store.make(digest.of_json(of), label, counted)


def puzzled(
    folder: Path, student: Student, device: Device, latency: str, memory: str | None = None, **fields: Any
) -> tuple[Student, dict[str, Any]]:
    budget = {"latency": latency, **({"memory": memory} if memory else {})}
    stage: Puzzle = registry.build("stages", "puzzle", {"budget": budget, **BRIEF, **fields})
    assert stage.weighed == bool(memory)
    folder.mkdir(parents=True)
    context = tiny_context(folder, data=HIDDEN, race=device.race, kept=device.kept)
    facts = stage.run(student, context, folder)
    return Student(folder, student.factory), json.loads(json.dumps(facts))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return tiny_saved(tmp_path_factory.mktemp("parent"), width=8, trained=True)


@pytest.fixture(scope="module")
def device(parent: Student, tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(tmp_path_factory.mktemp("device"), parent)


@pytest.fixture(scope="module")
def done(parent: Student, device: Device, tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, dict[str, Any]]:
    return puzzled(tmp_path_factory.mktemp("puzzle") / "out", parent, device, "0.5x")


def test_the_plan_is_the_best_of_all_and_takes_what_was_predicted(
    done: tuple[Student, dict[str, Any]], parent: Student
) -> None:
    student, facts = done
    told, whole = facts["puzzle"], seconds(parent, [])
    blocks = {block["name"]: block for block in told["blocks"]}
    assert list(blocks) == ["stem", "block", "down"] and told["kinds"] == ["float32 on null"]
    each = [
        [
            (0.0, 0.0),
            *(
                (one["kl"], whole - one["timed"]["float32 on null"]["seconds"])
                for one in block["alternatives"]
                if not one["left_out"]
            ),
        ]
        for block in blocks.values()
    ]
    able = [p for p in itertools.product(*each) if whole - sum(saved for _, saved in p) <= 0.5 * whole]
    assert told["loss"] == pytest.approx(min(sum(kl for kl, _ in p) for p in able), rel=1e-6)
    assert told["whole"] == pytest.approx(whole) and told["allowed"] == pytest.approx(whole / 2)
    assert told["predicted"] == pytest.approx(told["measured"], rel=1e-9), "what blocks take adds up here"
    assert told["measured"] == pytest.approx(seconds(parent, student.edits)) and told["measured"] <= told["allowed"]
    assert len(told["tried"]) == 1
    idle = [one for block in blocks.values() for one in block["alternatives"] if one["name"] == IDLE]
    assert len(idle) == 3 and all("buys no measured time: 1.000" in one["left_out"] for one in idle)


def test_the_student_is_remade_from_its_edits_with_what_the_blocks_learned(
    done: tuple[Student, dict[str, Any]], parent: Student, device: Device
) -> None:
    student, facts = done
    inputs, targets = tiny_data().validation
    network = student.network()
    assert accuracy(logits_of(network, inputs).numpy(), targets.numpy()) == facts["replaced"]["validation"]
    assert facts["replaced"]["macs"] == macs(parent, student.edits) < facts["before"]["macs"]
    assert facts["before"]["validation"] > 0.5
    weights, before = student.weights(), parent.weights()
    assert all(torch.equal(before[name], value) for name, value in weights.items() if name.startswith("head."))
    chosen = [block for block in facts["puzzle"]["blocks"] if block["chosen"]]
    for block in chosen:
        row = block["alternatives"][block["chosen"] - 1]
        assert row["error"] <= row["before"] and row["kl"] >= 0


def test_another_budget_trains_nothing_anew(
    tmp_path: Path, done: tuple[Student, dict[str, Any]], parent: Student, device: Device
) -> None:
    trained = list(device.trained)
    _, facts = puzzled(tmp_path / "out", parent, device, "0.8x")
    assert device.trained == trained and len(trained) == sum(len(b["alternatives"]) for b in facts["puzzle"]["blocks"])
    assert facts["puzzle"]["loss"] < done[1]["puzzle"]["loss"]


def test_memory_is_a_limit_beside_latency(
    tmp_path: Path, done: tuple[Student, dict[str, Any]], parent: Student, device: Device
) -> None:
    """Of all plans that keep both, the one of least loss; the latency alone leaves more parameters than the memory allows."""
    trained, whole = list(device.trained), seconds(parent, [])
    before = memory(parent, done[0].edits)
    limit = before - 200_000
    student, facts = puzzled(tmp_path / "out", parent, device, "0.5x", f"{limit / 1e6:.6f} MB")
    told = facts["puzzle"]
    rows = [
        [(0.0, 0.0, 0.0)]
        + [
            (one["kl"], whole - timed["seconds"], memory(parent, []) - timed["memory"])
            for one in block["alternatives"]
            if not one["left_out"] and (timed := one["timed"]["float32 on null"])
        ]
        for block in told["blocks"]
    ]
    plans = [[sum(column) for column in zip(*plan, strict=True)] for plan in itertools.product(*rows)]
    able = [kl for kl, saved, freed in plans if whole - saved <= 0.5 * whole and memory(parent, []) - freed <= limit]
    assert told["loss"] == pytest.approx(min(able), rel=1e-6) and told["loss"] > done[1]["puzzle"]["loss"]
    assert told["limits"]["memory"]["measured"] == memory(parent, student.edits) <= limit
    assert told["limits"]["memory"]["predicted"] == pytest.approx(memory(parent, student.edits), rel=1e-9)
    assert told["budget"].startswith("0.5x, memory 4") and device.trained == trained
    match = r"budget.memory 1 MB beside latency 0.5x cannot be met: the least memory to be reached is 40\.\d MB"
    with pytest.raises(UserError, match=match) as caught:
        puzzled(tmp_path / "more", parent, device, "0.5x", "1 MB")
    assert "another backend" in caught.value.hint


def test_what_was_trained_before_a_kill_is_kept(
    tmp_path: Path, done: tuple[Student, dict[str, Any]], parent: Student
) -> None:
    device = Device(tmp_path, parent)
    device.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        puzzled(tmp_path / "cut", parent, device, "0.5x")
    assert len(device.trained) == 3 and device.raced == []
    device.stop_at = 10**9
    student, facts = puzzled(tmp_path / "out", parent, device, "0.5x")
    assert len(device.trained) == len(set(device.trained)) and facts == done[1]
    assert all(torch.equal(value, done[0].weights()[name]) for name, value in student.weights().items())


def test_a_budget_that_cannot_be_met_says_the_least_and_the_metric_there(
    tmp_path: Path, parent: Student, device: Device
) -> None:
    with pytest.raises(
        UserError,
        match=r"budget.latency 1 us cannot be met: the least .* 1\d\.\d µs \(0\.\d\dx\), where the metric is 0\.\d+",
    ) as caught:
        puzzled(tmp_path / "out", parent, device, "1 us")
    assert "allow more" in caught.value.hint


def test_nothing_that_computes_less_is_an_error_that_names_the_blocks(tmp_path: Path) -> None:
    """A 1 × 1 convolution between maps of other widths."""
    (tmp_path / "in").mkdir()
    save(tmp_path / "in", Mobile().state_dict(), [], tiny_saved(tmp_path / "about").signature, {})
    student = Student(tmp_path / "in", Mobile)
    with pytest.raises(UserError, match='nothing that fits computes less than "features.2.layers.2"') as caught:
        puzzled(tmp_path / "out", student, Device(tmp_path, student), "0.5x", blocks=["features.2.layers.2"])
    assert "channel_multiple" in caught.value.hint


def test_an_encoder_loses_what_its_budget_asks_for(tmp_path: Path) -> None:
    """Heads, linear layers and feed-forward networks of other widths, in layers of two forms."""
    (tmp_path / "in").mkdir()
    about = tiny_saved(tmp_path / "about").signature
    save(tmp_path / "in", encoder().state_dict(), [], about, {"factory": "networks:encoder"})
    student = Student(tmp_path / "in", encoder)
    made, facts = puzzled(tmp_path / "out", student, Device(tmp_path, student), "0.6x", epochs=1, samples=64)
    told = facts["puzzle"]
    assert [block["form"] for block in told["blocks"]] == ["attention", "feed-forward", "attention", "pair"]
    assert told["measured"] == pytest.approx(seconds(student, made.edits)) and told["measured"] <= 0.6 * told["whole"]
    assert made.network()(tiny_data().validation[0][:3]).shape == (3, 4)


def test_every_stage_goes_on_from_it(tmp_path: Path, done: tuple[Student, dict[str, Any]], parent: Student) -> None:
    """Distilled, pruned, quantized: each is remade from the edits of all before it."""
    student = before = done[0]
    for name, fields in (
        ("distill", {"losses": [{"use": "kl"}], "epochs": 1}),
        ("prune", {"ratio": 0.25, "criterion": "magnitude", "epochs": 0}),
        ("quantize", {"observer": "minmax"}),
    ):
        out = tmp_path / name
        out.mkdir()
        registry.build("stages", name, fields).run(student, tiny_context(tmp_path), out)
        before, student = student, Student(out, parent.factory)
    assert [edit["edit"] for edit in student.edits][-2:] == ["prune", "quantize"]
    assert len(student.edits) == len(done[0].edits) + 2
    inputs = tiny_data().validation[0]
    assert accuracy(logits_of(student.module(), inputs).numpy(), before.network()(inputs).argmax(1).numpy()) > 0.9
