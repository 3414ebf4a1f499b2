"""Losses on modules in the stages: distillation, recovery and quantization-aware training learn with them."""

from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from tiny import TinyNet, tiny_context, tiny_data, tiny_saved, tiny_student

from edgekd import registry
from edgekd.data import Dataset
from edgekd.pipeline.engines import export
from edgekd.stage import uses
from edgekd.stages.distill import Distill
from edgekd.stages.prune import Prune
from edgekd.stages.quantize import Qat, Quantize
from edgekd.student import Student
from edgekd.teachers.module import Module
from edgekd.training import checkpoint
from edgekd.training.compared import MODULES
from edgekd.training.terms import check

ON_MODULES = [name for name in registry.names("losses") if registry.constant("losses", name, "wants") in MODULES]
IMAGES = {"attention_relations", "class_attention"}
"""Losses that want other features than a plain network has."""


def test_a_pruned_student_recovers_by_any_of_them(tmp_path: Path) -> None:
    """All at once, on a network that has half of its channels; what is written is the student alone, and can be built again."""
    losses = tuple({"use": name} for name in ON_MODULES if name not in IMAGES)
    out = tmp_path / "out"
    out.mkdir()
    given, data = tiny_saved(tmp_path / "in", trained=True), tiny_data()
    few = Dataset(tuple(x[:64] for x in data.train), data.validation, data.test)
    facts = Prune(ratio=0.5, criterion="magnitude", losses=losses, epochs=1, batch=32).run(
        given, tiny_context(tmp_path, data=few), out
    )
    (epoch,) = facts["recovery"]["epochs"]
    assert epoch["terms"].keys() == {loss["use"] for loss in losses}
    student = Student(out, given.factory)
    assert student.weights().keys() == given.weights().keys()
    assert sum(v.numel() for v in student.weights().values()) < 0.6 * sum(v.numel() for v in given.weights().values())
    assert torch.isfinite(student.network()(student.example(2))).all()


def test_a_quantized_student_learns_by_them(tmp_path: Path) -> None:
    """All at once, but those that divide a layer; beside the recipe's teacher the float student teaches."""
    names = [name for name in ON_MODULES if name not in IMAGES | {"dual_head"}]
    few = Dataset(tuple(x[:64] for x in tiny_data().train), tiny_data().validation, tiny_data().test)
    qat = Qat(losses=tuple({"use": name, "weight": 0.01} for name in names), epochs=2, batch=32, teacher="both")
    check(uses(qat.losses, "losses"), batch=32, traced=True)
    out = tmp_path / "out"
    out.mkdir()
    given = tiny_saved(tmp_path / "in", trained=True)
    facts = Quantize(observer="minmax", qat=qat).run(given, tiny_context(tmp_path, data=few), out)
    history = facts["qat"]
    assert history["epochs"][1]["loss"] < history["epochs"][0]["loss"]
    assert all(np.isfinite(value) for value in history["epochs"][1]["terms"].values())
    assert history["pairs"]["hint"] == ("down", "down")
    inputs, targets = tiny_data().validation
    program = Student(out, given.factory).module()
    with torch.no_grad():
        assert float((program(inputs).argmax(1) == targets).float().mean()) > 0.7


class Adverse(TinyNet):
    """It knows the classes, and says the next one."""

    def __init__(self) -> None:
        super().__init__(16)
        self.load_state_dict(tiny_student(16, 7, trained=True).state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).roll(1, 1)


def test_of_auxiliary_heads_nothing_is_exported_and_of_two_heads_one(tmp_path: Path) -> None:
    """The teacher contradicts the labels, so that each of two heads learns its own; the program says α z_1 + (1 − α) z_2 / β.

    The checkpoint of the last epoch, which is the best, has the parts that the student was trained with.
    """
    alpha, beta = 0.4, 2.0
    contrary, epoch = Adverse(), count()
    context = tiny_context(tmp_path, teacher=Module(contrary), metric=lambda *_: float(next(epoch)))
    given, out, program = tiny_saved(tmp_path / "in"), tmp_path / "out", tmp_path / "program"
    out.mkdir()
    program.mkdir()
    losses = ({"use": "dual_head", "alpha": alpha, "beta": beta}, {"use": "auxiliary_heads", "weight": 0.1})
    facts = Distill(losses=losses, epochs=6, batch=32, lr=2e-2).run(given, context, out)
    assert facts["pairs"] == {"dual_head": ("head", "logits"), "auxiliary_heads": ("block, down", "")}
    student = Student(out, given.factory)
    export(student, program)

    tensors, _ = checkpoint.read(context.work / "distill.checkpoint") or ({}, {})
    assert tensors["learned/classifiers.auxiliary_heads.0.classifier.weight"].shape == (4, 16)
    assert student.weights().keys() == tiny_student().state_dict().keys()
    graph = onnx.load(program / "model.onnx").graph
    assert sum(node.op_type in ("Gemm", "MatMul") for node in graph.node) == 1
    assert sum(node.op_type == "Conv" for node in graph.node) == 4
    numbers = sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)
    assert numbers <= sum(value.numel() for value in student.weights().values())  # batch norms are folded

    parts = {name.rpartition("parametrizations.")[2]: x for name, x in tensors.items() if name.startswith("model/head")}
    image, target = tiny_data().test
    network = student.network()
    with torch.no_grad():
        features = network.down(network.block(network.stem(image))).mean((2, 3))
        first, second = (features @ parts[f"weight.original{i}"].T + parts[f"bias.original{i}"] for i in (0, 1))
    session = onnxruntime.InferenceSession(str(program / "model.onnx"))
    answers = np.concatenate([session.run(None, {"image": one[None].numpy()})[0] for one in image])
    np.testing.assert_allclose(answers, (alpha * first + (1 - alpha) * second / beta).numpy(), rtol=1e-3, atol=1e-3)
    assert (first.argmax(1) == target).float().mean() > 0.8
    assert (second.argmax(1) == contrary(image).argmax(1)).float().mean() > 0.8
