"""Two heads in one: by hand, and that they do not pull at each other."""

import math

import pytest
import torch
from tiny import tiny_data, tiny_student
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd.errors import UserError
from edgekd.losses.dual_head import DualHead
from edgekd.stage import uses
from edgekd.teachers.module import Module
from edgekd.training.divided import divide, unite
from edgekd.training.features import classifier
from edgekd.training.objective import Objective

INPUTS, TARGETS = (x[:8] for x in tiny_data().train)


def test_numbers_worked_out_by_hand() -> None:
    """φ = 1. W_1 = (log 3, 0) gives the first class 3/4, W_2 = (2, 0) gives it q = e² / (e² + 1).

    With α = 1/5 and β = 3 the student's own head is (log 3 / 5 + 8 / 15, 0). Of two samples the second has no label; the teacher
    says even odds of both.
    """
    loss = DualHead(alpha=0.2, beta=3.0, balance=0.25, temperature=1.0)
    layer = nn.Linear(1, 2, bias=False)
    nn.utils.parametrize.register_parametrization(layer, "weight", loss.divided())
    parts = layer.parametrizations["weight"]  # type: ignore[index]
    with torch.no_grad():
        parts.original0.copy_(torch.tensor([[math.log(3)], [0.0]]))
        parts.original1.copy_(torch.tensor([[2.0], [0.0]]))
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[math.log(3) / 5 + 8 / 15], [0.0]]))
    q = math.exp(2) / (math.exp(2) + 1)
    divergence = 0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1 - q))
    found = loss(torch.ones(2, 1), torch.zeros(2, 2), targets=torch.tensor([0, -1]), layer=layer)
    assert found.item() == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * divergence, rel=1e-5)


def test_both_heads_begin_as_the_students_and_are_trained_as_if_they_stood_alone() -> None:
    """A divided layer and two layers written out, three steps of Adam each: the same heads, and the same to the features."""
    torch.manual_seed(0)
    loss = DualHead(alpha=0.3, beta=2.0, temperature=2.0)
    layer, first, second = (nn.Linear(5, 3) for _ in range(3))
    features, labels, teacher = torch.randn(6, 5), torch.arange(6) % 3, torch.randn(6, 3)
    before = layer(features).detach()
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(first, name).copy_(getattr(layer, name))
            getattr(second, name).copy_(2 * getattr(layer, name))
            nn.utils.parametrize.register_parametrization(layer, name, loss.divided())
    torch.testing.assert_close(layer(features), before)
    optimizers = [
        torch.optim.AdamW([p for m in modules for p in m.parameters()], lr=0.1)
        for modules in ([layer], [first, second])
    ]
    for _ in range(3):
        ours, written = (features.clone().requires_grad_() for _ in range(2))
        found = loss(ours, teacher, targets=labels, layer=layer)
        q, p = log_softmax(second(written) / 2, 1), log_softmax(teacher / 2, 1)
        apart = 4 * kl_div(q, p, reduction="batchmean", log_target=True)
        expected = 0.5 * cross_entropy(first(written), labels) + 0.5 * apart
        torch.testing.assert_close(found, expected)
        for optimizer, value in zip(optimizers, (found, expected), strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        torch.testing.assert_close(ours.grad, written.grad)
    torch.testing.assert_close(layer(features), 0.3 * first(features) + 0.7 / 2 * second(features))


def test_a_head_that_is_a_convolution_before_the_pooling_is_the_same() -> None:
    torch.manual_seed(0)
    loss, maps, layer = DualHead(), torch.randn(2, 5, 4, 4), nn.Conv2d(5, 3, 1)
    first, second = loss.answers(maps.mean((2, 3)), layer)
    torch.testing.assert_close(first, layer(maps).mean((2, 3)))
    torch.testing.assert_close(first, second)


def test_a_layer_that_is_not_linear_is_refused() -> None:
    for layer in (nn.Sequential(nn.Linear(5, 3)), nn.Conv2d(5, 3, 3)):
        with pytest.raises(
            UserError, match=f'"body" is a {type(layer).__name__}, no linear layer of 5 channels\nhint: name the'
        ):
            DualHead(student="body").answers(torch.zeros(2, 5), layer)


def test_the_head_is_found_and_given_what_it_is_given() -> None:
    assert classifier(tiny_student(), INPUTS) == "head"
    teach = Module(tiny_student(16, 7))
    objective = Objective(uses([{"use": "dual_head"}], "losses"), lambda: teach)
    student = tiny_student().eval()
    objective.prepare(student, INPUTS, TARGETS, 0)
    assert objective.pairs == {"dual_head": ("head", "logits")}
    found = objective(student, INPUTS, torch.full_like(TARGETS, -1))["dual_head"]
    assert found.item() > 0  # without any label the teacher still counts
    with pytest.raises(UserError, match="no linear layer that makes its logits"):
        classifier(nn.Flatten(), INPUTS)
    twice = Objective(uses([{"use": "dual_head"}] * 2, "losses"), lambda: teach)
    twice.prepare(student, INPUTS, TARGETS, 0)
    with pytest.raises(UserError, match='"dual_head 2" divides the layer "head", whose weight is parametrised already'):
        divide(student, twice.losses, averaged=False)
    with pytest.raises(UserError, match="which an average of the student cannot follow"):
        divide(student, twice.losses, averaged=True)
    unite(student, twice.losses.values())
    assert student.state_dict().keys() == tiny_student().state_dict().keys()
