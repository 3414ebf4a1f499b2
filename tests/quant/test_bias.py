"""Bias correction: by hand, and over a whole network."""

from __future__ import annotations

import pytest
import torch
from quant.zoo import inputs, warm
from torch import nn

from edgekd.quant import pt2e
from edgekd.quant.bias import correct_biases
from edgekd.quant.grid import AFFINE
from edgekd.quant.precision import Precision


def test_one_layer_by_hand() -> None:
    """w = 0.4 on a grid of steps of 1 is 0: E[y] = 0.4 · 2 + 1, E[ŷ] = 1, so the bias becomes 1.8."""
    model = nn.Linear(2, 1).eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.4, 3.0]]))
        model.bias.fill_(1.0)
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    graph = pt2e.prepare(model, x[:1], AFFINE, "minmax", False, Precision(2, 16, 2))
    pt2e.calibrate(graph, [x])
    graph.eval()
    assert correct_biases(graph, x) == 1
    assert graph.get_parameter("bias").item() == pytest.approx(1.8, abs=1e-3)


def test_the_means_of_the_outputs_are_the_float_networks() -> None:
    model, x = warm("residual"), inputs(64)
    graph = pt2e.prepare(model, x[:1], AFFINE, "minmax", False, Precision(3, 8))
    pt2e.calibrate(graph, [x])
    graph.eval()
    with torch.no_grad():
        before = (graph(x) - model(x)).mean(0).abs().max()
        assert correct_biases(graph, x) == 7
        after = (graph(x) - model(x)).mean(0).abs().max()
    assert float(after) < 0.01 * float(before)
