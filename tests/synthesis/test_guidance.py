"""Labels, stretching and activation maps, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgekd.synthesis.guidance import activation_map, classes_for, last_linear, of_class, stretch


def test_classes_are_even_and_follow_from_the_seed() -> None:
    found = classes_for(10, 4, seed=0)
    assert sorted(found.bincount().tolist()) == [2, 2, 3, 3]
    assert torch.equal(found, classes_for(10, 4, seed=0)) and not torch.equal(found, classes_for(10, 4, seed=1))


def test_hard_images_follow_the_soft_label() -> None:
    """p(wished) is 0.9 and 0.2: with `easy` 0.5 the first takes −ln 0.9, the second KL to the teacher's ½, ½."""
    logits = torch.tensor([[math.log(9.0), 0.0], [math.log(4.0), 0.0]])
    targets = torch.tensor([0, 1])
    easy, hard = -math.log(0.9), -math.log(0.2)
    assert float(of_class(logits, targets)) == pytest.approx((easy + hard) / 2)
    assert float(of_class(logits, targets, easy=0.5)) == pytest.approx(easy / 2)
    soft = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    assert float(of_class(logits, targets, 0.5, torch.zeros(2, 2))) == pytest.approx((easy + soft) / 2)


def test_stretching_prefers_outputs_that_span_much() -> None:
    """Rows span 2 and 4: (1/2 + 1/4)/2. With x = (3, 4) and rows of length 1 and 2: ends 3 and −1 are drawn to 5 and 2.5."""
    assert float(stretch(torch.tensor([[0.0, 2.0], [1.0, -3.0]]), None, None)) == pytest.approx(0.375)
    weight = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    loss = stretch(torch.tensor([[3.0, -1.0]]), torch.tensor([[3.0, 4.0]]), weight)
    assert float(loss) == pytest.approx(1 / 4 + abs(3 - 0.5 * 5 * 2) + abs(1 - 0.5 * 5 * 1), abs=1e-5)


def test_the_activation_map_of_a_linear_head() -> None:
    """y_c = Σ_k w_ck · mean A_k, so α_k = w_ck / 4; w = (1, −2): relu(A_0 − 2 A_1), over its largest value."""
    maps = torch.tensor([[[4.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 3.0]]]).unsqueeze(0).requires_grad_()
    logits = (maps.mean((2, 3)) * torch.tensor([1.0, -2.0])).sum(1, keepdim=True)
    found = activation_map(maps, logits, torch.tensor([0]))
    assert found.shape == (1, 1, 2, 2)
    assert found.flatten().tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0])
    (slope,) = torch.autograd.grad(found.sum(), maps)
    assert bool(slope.abs().sum() > 0)


def test_the_last_linear_layer_is_the_one_that_ran_last() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    with last_linear(network) as seen:
        network(torch.ones(5, 2))
    ((module, features),) = seen
    assert module is network[2] and features.shape == (5, 3)
