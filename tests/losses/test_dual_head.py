"""Two heads in one: by hand, that they do not pull at each other, and that the exported program is their combination."""

import math
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import TinyNet, tiny_context, tiny_data, tiny_saved, tiny_student
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd import checkpoint
from edgekd.errors import UserError
from edgekd.features import classifier
from edgekd.losses.dual_head import DualHead
from edgekd.objective import Objective
from edgekd.pipeline.engines import export
from edgekd.stage import uses
from edgekd.stages.distill import Distill
from edgekd.student import Student
from edgekd.teachers.module import Module

INPUTS, TARGETS = (x[:8] for x in tiny_data().train)


def test_numbers_worked_out_by_hand() -> None:
    """α = 1/5, so a = √4 = 2; β = 3. z = (1, 0), D φ = (x, 0): z_1 = (1 + 2x, 0), z_2 = 3 · (1 − x / 2, 0).

    With x = (log 3 − 1) / 2 that is z_1 = (log 3, 0), which gives the first class 3/4. Of two samples the second has no label; the
    teacher says even odds of both.
    """
    loss = DualHead(alpha=0.2, beta=3.0, balance=0.25, temperature=1.0)
    x = (math.log(3) - 1) / 2
    own = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    first, second = loss.heads_of(own, torch.tensor([[x, 0.0], [x, 0.0]]))
    torch.testing.assert_close(first[0], torch.tensor([math.log(3), 0.0]))
    torch.testing.assert_close(second[0], torch.tensor([3 - 1.5 * x, 0.0]))
    torch.testing.assert_close(0.2 * first + 0.8 * second / 3, own)
    state = nn.Linear(1, 2)
    with torch.no_grad():
        state.weight.copy_(torch.tensor([[x], [0.0]]))
        state.bias.zero_()
    q = 1 / (1 + math.exp(-(3 - 1.5 * x)))
    divergence = 0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1 - q))
    found = loss(torch.ones(2, 1), torch.zeros(2, 2), targets=torch.tensor([0, -1]), own=own, state=state)
    assert found.item() == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * divergence, rel=1e-5)


def test_a_step_trains_both_heads_as_if_they_stood_alone() -> None:
    """Two heads written out, each stepped by its own loss at lr / α and lr β² / (1 − α), the features by both."""
    torch.manual_seed(0)
    alpha, beta, lr = 0.3, 2.0, 0.1
    loss = DualHead(alpha=alpha, beta=beta, temperature=2.0)
    head, state = nn.Linear(5, 3), nn.Linear(5, 3)
    features, labels, teacher = torch.randn(6, 5), torch.arange(6) % 3, torch.randn(6, 3)
    a = math.sqrt((1 - alpha) / alpha)
    first, second = (nn.Linear(5, 3) for _ in range(2))
    with torch.no_grad():
        for name in ("weight", "bias"):
            w, d = getattr(head, name), getattr(state, name)
            getattr(first, name).copy_(w + a * d)
            getattr(second, name).copy_(beta * (w - d / a))
    ours, written = (features.clone().requires_grad_() for _ in range(2))
    found = loss(ours, teacher, targets=labels, own=head(ours), state=state)
    right = cross_entropy(first(written), labels)
    apart = 4 * kl_div(
        log_softmax(second(written) / 2, 1), log_softmax(teacher / 2, 1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(found, 0.5 * right + 0.5 * apart)
    found.backward()
    (0.5 * right + 0.5 * apart).backward()
    torch.testing.assert_close(ours.grad, written.grad)
    with torch.no_grad():
        for module, rate in ((head, lr), (state, lr), (first, lr / alpha), (second, lr * beta**2 / (1 - alpha))):
            for parameter in module.parameters():
                parameter -= rate * parameter.grad
        one, two = loss.heads_of(head(features), state(features))
        torch.testing.assert_close(one, first(features))
        torch.testing.assert_close(two, second(features))


def test_the_head_is_found_and_given_what_it_is_given() -> None:
    assert classifier(tiny_student(), INPUTS) == "head"
    objective = Objective(uses([{"use": "dual_head"}], "losses"), lambda: Module(tiny_student(16, 7)))
    student = tiny_student().eval()
    objective.prepare(student, INPUTS, TARGETS, 0)
    assert objective.pairs == {"dual_head": ("head", "logits")}
    state = objective.learned["state"]["dual_head"]  # type: ignore[index]
    assert list(state.weight.shape) == [4, 16] and not state.weight.any()
    found = objective(student, INPUTS, torch.full_like(TARGETS, -1))["dual_head"]
    assert found.item() > 0  # without any label the teacher still counts
    with pytest.raises(UserError, match="no linear layer that makes its logits"):
        classifier(nn.Flatten(), INPUTS)


def test_the_exported_program_is_one_head_and_both(tmp_path: Path) -> None:
    """The teacher contradicts the labels: each head learns its own, and the program says α z_1 + (1 − α) z_2 / β."""
    alpha, beta = 0.4, 2.0
    contrary, epoch = Adverse(), count()
    context = tiny_context(
        tmp_path, teacher=Module(contrary), metric=lambda *_: float(next(epoch))
    )  # the last is the best
    given, out, program = tiny_saved(tmp_path / "in", trained=True), tmp_path / "out", tmp_path / "program"
    out.mkdir()
    program.mkdir()
    stage = Distill(losses=({"use": "dual_head", "alpha": alpha, "beta": beta},), epochs=6, batch=32, lr=2e-2)
    stage.run(given, context, out)
    student = Student(out, given.factory)
    export(student, program)
    graph = onnx.load(program / "model.onnx").graph
    assert sum(node.op_type in ("Gemm", "MatMul") for node in graph.node) == 1
    assert student.weights().keys() == tiny_student().state_dict().keys()
    tensors, _ = checkpoint.read(context.work / "distill.checkpoint") or ({}, {})
    apart = {name: tensors[f"learned/state.dual_head.{name}"] for name in ("weight", "bias")}
    network, a = student.network(), math.sqrt((1 - alpha) / alpha)
    image, target = tiny_data().test
    with torch.no_grad():
        features = network.down(network.block(network.stem(image))).mean((2, 3))
        first, second = (
            features @ (scale * (network.head.weight + sign * apart["weight"])).T
            + scale * (network.head.bias + sign * apart["bias"])
            for scale, sign in ((1.0, a), (beta, -1 / a))
        )
    session = onnxruntime.InferenceSession(str(program / "model.onnx"))
    answers = np.concatenate([session.run(None, {"image": one[None].numpy()})[0] for one in image])
    np.testing.assert_allclose(answers, (alpha * first + (1 - alpha) * second / beta).numpy(), rtol=1e-3, atol=1e-4)
    assert (first.argmax(1) == target).float().mean() > 0.7
    assert (second.argmax(1) == contrary(image).argmax(1)).float().mean() > 0.7
    assert (first.argmax(1) != second.argmax(1)).float().mean() > 0.5


class Adverse(TinyNet):
    """It knows the classes, and says the next one."""

    def __init__(self) -> None:
        super().__init__(16)
        self.load_state_dict(tiny_student(16, 7, trained=True).state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).roll(1, 1)
