"""CoFi held to a latency: on a made-up device whose encoders cost what can be said by hand, and once on ONNX Runtime."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import Torch, saved, taught, texts, tokens
from tiny import tiny_context

from edgekd import registry
from edgekd.blocks.budget import Timed
from edgekd.errors import UserError
from edgekd.latency.table import Kind, Measured
from edgekd.pipeline.bench import noise
from edgekd.stages.prune import Prune
from edgekd.student import Edit, Student, replay
from edgekd.teachers.module import Module

torch.set_num_threads(1)
KIND = Kind("null", "float32")
FIELDS: dict[str, Any] = {
    "criterion": {"use": "cofi", "epochs": 8, "lr": 0.5, "layerwise": 0.1},
    "budget": {"latency": "0.5x"},
    "epochs": 1,
    "batch": 8,
    "lr": 5e-3,
}


def edited(student: Student, edits: Sequence[Edit]) -> torch.nn.Module:
    network = student.unloaded()
    replay(network, edits)
    return network.eval()


def seconds(student: Student, edits: Sequence[Edit]) -> float:
    """20 µs; 10 µs for each attention, 5 µs for each feed-forward branch; 50 ns for each weight of theirs; 1 µs for each channel of
    the residual stream.
    """
    network = edited(student, edits)
    weights = {name: value for name, value in network.named_parameters() if ".layers." in name and value.dim() == 2}
    attentions = sum("out_proj" in name for name in weights)
    feed = sum("linear2" in name for name in weights)
    inside = sum(value.numel() for value in weights.values())
    (width,) = network.norm.weight.shape
    return 20e-6 + 10e-6 * attentions + 5e-6 * feed + 50e-9 * inside + 1e-6 * width


class Device:
    """`slower`: by how much what has gone through training is slower than what was made up for the price."""

    def __init__(self, student: Student, take: Callable[..., float] = seconds, slower: float = 1.0) -> None:
        self.student, self.take, self.slower, self.raced = student, take, slower, list[int]()

    def race(self, edits: Sequence[Sequence[Edit]], label: str) -> tuple[list[dict[Kind, Timed]], dict[int, str]]:
        self.raced.append(len(edits))
        times = [self.take(self.student, one) for one in edits]
        times[1:] = [one * (self.slower if label == "prune: the plan" else 1.0) for one in times[1:]]
        shares = [one / times[0] for one in times]
        return [{KIND: Timed(Measured(t, s, s, s), 1000)} for t, s in zip(times, shares, strict=True)], {}


def pruned(folder: Path, device: Device, **fields: Any) -> tuple[Student, dict[str, Any]]:
    stage: Prune = registry.build("stages", "prune", {**FIELDS, **fields})
    stage.check()
    assert stage.races and not stage.priced, "no table of widths is measured"
    out = folder / "out"
    out.mkdir(parents=True)
    context = tiny_context(folder, data=texts(), teacher=Module(taught(Torch, 7)), race=device.race)
    facts = stage.run(device.student, context, out)
    return Student(out, device.student.factory), json.loads(json.dumps(facts))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return saved(tmp_path_factory.mktemp("student"), Torch)


def test_what_int8_engines_of_texts_are_calibrated_on_are_words_of_any_vocabulary(student: Student) -> None:
    found = noise(student)
    assert found.dtype == torch.int64 and found.shape == (2, 6) and set(found.unique().tolist()) == {0, 1}
    with torch.no_grad():
        assert torch.isfinite(student.network()(found)).all()


@pytest.mark.parametrize(("latency", "slower"), [("0.5x", 1.0), ("75 us", 1.3)])
def test_what_stays_keeps_the_latency_that_was_asked_for(
    tmp_path: Path, student: Student, latency: str, slower: float
) -> None:
    device = Device(student, slower=slower)
    smaller, facts = pruned(tmp_path, device, budget={"latency": latency})
    told, tried = facts["latency"], facts["plan"]["tried"]
    whole = seconds(student, [])
    assert told["whole"] == pytest.approx(whole)
    assert told["allowed"] == pytest.approx(75e-6 if latency == "75 us" else whole / 2)
    assert told["measured"] == pytest.approx(slower * seconds(student, smaller.edits), rel=1e-6)
    assert 0.7 * told["allowed"] < told["measured"] <= 1.05 * told["allowed"], "a branch more takes 15 µs"
    assert told["table"]["float32 on null"]["error"]["largest"] < 1e-3, "the device is of the model's form"
    assert tried[0]["predicted"] * slower == pytest.approx(tried[0]["measured"], rel=1e-3)
    assert device.raced == [device.raced[0], *[2] * len(tried)]
    assert len(tried) == 1 if slower == 1 else tried[0]["measured"] > 1.05 * told["allowed"] and len(tried) > 1
    assert told["expected"] == pytest.approx(told["allowed"], rel=0.25), "it is what the gates were trained to"
    terms = facts["masks"]["epochs"][-1]["terms"]
    assert set(terms) == {"cross_entropy", "kl", "latency", "layers"}
    with torch.no_grad():
        assert smaller.network()(tokens()).shape == (3, 3)
    assert facts["recovered"]["validation"] >= facts["before"]["validation"] - 0.3


def test_a_latency_that_cannot_be_met_is_said_before_any_training(tmp_path: Path, student: Student) -> None:
    device = Device(student)
    message = (
        r"0.1x cannot be met: the least latency to be reached is 21\.0 µs \(0\.\d\dx\), where the metric is 0\.\d+"
    )
    with pytest.raises(UserError, match=message):
        pruned(tmp_path, device, budget={"latency": "0.1x"})
    with pytest.raises(UserError, match="a budget of 1 s asks for nothing"):
        pruned(tmp_path / "more", device, budget={"latency": "1 s"})
    assert len(device.raced) == 2 and not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budget": {"latency": "0.5x", "size": "1 MB"}}, 'budget: not with criterion "cofi": of a latency alone'),
        ({"allocation": "macs"}, 'allocation: not with criterion "cofi": it learns what goes'),
    ],
)
def test_wrong_budgets_are_said_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.build("stages", "prune", {**FIELDS, **fields}).check()
    assert message in caught.value.message


def on_onnxruntime(student: Student, edits: Sequence[Edit]) -> float:
    """What an encoder's engine takes at least, seconds of this thread, as ONNX Runtime runs it now."""
    import onnxruntime as ort

    path = student.path / "timed.onnx"
    given = tokens(64)
    torch.onnx.export(edited(student, edits), (given,), path, dynamo=False, input_names=["ids"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed, taken = {"ids": given.numpy()}, []
    for _ in range(100):
        begun = time.thread_time()
        session.run(None, feed)
        taken.append(time.thread_time() - begun)
    return min(taken)


@pytest.mark.filterwarnings("ignore")
def test_on_onnxruntime_what_stays_is_measured_to_be_faster(tmp_path: Path) -> None:
    device = Device(saved(tmp_path / "in", partial(Torch, layers=1)), on_onnxruntime)
    criterion = {**FIELDS["criterion"], "epochs": 2}
    smaller, facts = pruned(tmp_path, device, budget={"latency": "0.6x"}, criterion=criterion)
    told = facts["latency"]
    assert told["measured"] <= 1.05 * told["allowed"] == pytest.approx(1.05 * 0.6 * told["whole"])
    assert facts["pruned"]["parameters"] < facts["before"]["parameters"]
    assert facts["plan"]["tried"][-1]["measured"] > 0
    assert smaller.edits[-1]["criterion"] == "cofi"
