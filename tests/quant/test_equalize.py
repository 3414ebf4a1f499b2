"""Scales that move between layers: by hand, and without changing what the network computes."""

from __future__ import annotations

import pytest
import torch
from quant.zoo import inputs, warm
from torch import nn
from torch.fx import GraphModule

from edgekd.quant import pt2e
from edgekd.quant.adapter import in_float
from edgekd.quant.equalize import equalize, smooth
from edgekd.quant.grid import AFFINE
from edgekd.quant.precision import Precision


def prepared(model: nn.Module, x: torch.Tensor) -> GraphModule:
    graph = pt2e.prepare(model.eval(), x[:1], AFFINE, "minmax", False, Precision(4, 4))
    graph.eval()
    return graph


@torch.no_grad()
def in_floats(graph: GraphModule, x: torch.Tensor) -> torch.Tensor:
    with in_float(graph):
        found: torch.Tensor = graph(x)
    return found


def test_two_layers_by_hand() -> None:
    """r₁ = 8, 1 and r₂ = 2, 4: s = √(8 / 2) = 2 and √(1 / 4) = 0.5; then both layers have the ranges 4 and 2."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[8.0], [-1.0]]))
        model[0].bias.copy_(torch.tensor([1.0, 3.0]))
        model[2].weight.copy_(torch.tensor([[-2.0, 4.0]]))
    x = torch.linspace(-2, 2, 9)[:, None]
    graph = prepared(model, x)
    assert equalize(graph) == 1
    held = {name: value.detach().flatten().tolist() for name, value in graph.named_parameters()}
    assert held["0.weight"] == pytest.approx([4.0, -2.0])
    assert held["0.bias"] == pytest.approx([0.5, 6.0])
    assert held["2.weight"] == pytest.approx([-4.0, 2.0])
    assert torch.allclose(in_floats(graph, x), model(x), atol=1e-5)


@pytest.mark.parametrize(("name", "pairs"), [("residual", 2), ("dense", 1), ("mobile", 0)])
def test_the_network_computes_the_same(name: str, pairs: int) -> None:
    """A residual net has the pair inside each unit; a ReLU6, or a tensor that two read, stands between the others."""
    model, x = warm(name), inputs(4)
    graph = prepared(model, x)
    assert equalize(graph) == pairs
    assert torch.allclose(in_floats(graph, x), model(x), atol=1e-4)


def test_depth_wise_layers_are_pairs_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1, groups=2)
    )
    x = inputs(3)
    with torch.no_grad():
        model[2].weight *= torch.tensor([0.1, 10.0, 1.0, 3.0, 0.0, 1.0]).view(6, 1, 1, 1)
        before = model[2].weight.flatten(1).abs().amax(1)[:4]
    graph = prepared(model, x)
    assert equalize(graph) == 2
    assert torch.allclose(in_floats(graph, x), model(x), atol=1e-5)
    ranges = graph.get_parameter("2.weight").detach().flatten(1).abs().amax(1)
    assert float(ranges[:4].max() / ranges[:4].min()) < 0.2 * float(before.max() / before.min())


class Attended(nn.Module):
    """A layer norm that two linear layers read, one channel of it far too large."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(3), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.one(x) * self.two(x)


def test_a_layer_norms_outlier_moves_into_the_weights_by_hand() -> None:
    """max |W| over both readers is 1, 2, 4; with γ = 100, 1, 1, s_j = √(max |X_j| / max |W_j|)."""
    model, x = Attended(), torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([100.0, 1.0, 1.0]))
        model.one.weight.copy_(torch.tensor([[1.0, 0.5, -4.0], [0.2, -1.0, 1.0]]))
        model.two.weight.copy_(torch.tensor([[0.1, 2.0, 1.0], [-0.3, 1.0, 0.5]]))
        seen = model.norm(x).abs().amax(0)
    graph = prepared(model, x)
    assert smooth(graph, x.split(20)) == 1
    scale = [(float(a) / w) ** 0.5 for a, w in zip(seen, (1.0, 2.0, 4.0), strict=True)]
    assert graph.get_parameter("norm.weight").tolist() == pytest.approx([100 / scale[0], 1 / scale[1], 1 / scale[2]])
    assert graph.get_parameter("two.weight")[0].tolist() == pytest.approx([0.1 * scale[0], 2 * scale[1], scale[2]])
    assert torch.allclose(in_floats(graph, x), model(x), rtol=1e-4, atol=1e-4)


def test_nothing_to_smooth() -> None:
    assert smooth(prepared(warm("dense"), inputs(2)), [inputs(2)]) == 0
