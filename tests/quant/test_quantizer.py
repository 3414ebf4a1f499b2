"""Where the quantize/dequantize pairs stand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from quant.zoo import inputs, warm
from torch import nn
from torch.fx import GraphModule

from edgekd.observers.minmax import MinMax
from edgekd.quant import pt2e
from edgekd.quant.adapter import ActivationGrid
from edgekd.quant.grid import AFFINE, Grid


def prepared(model: nn.Module, grid: Grid = AFFINE, qat: bool = False) -> GraphModule:
    return pt2e.prepare(model, inputs(1), grid, MinMax, qat)


def quantized_behind(graph: GraphModule) -> Counter[str]:
    """The operators whose output goes through an adapter."""
    return Counter(
        str(node.args[0].target).removeprefix("aten.").partition(".")[0]
        for node in graph.graph.nodes
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), ActivationGrid)
    )


@pytest.mark.parametrize("qat", [False, True])
def test_a_residual_net_is_quantized_at_each_units_end(qat: bool) -> None:
    behind = "batch_norm" if qat else "conv2d"  # the convolution before each addition; relu ends the others
    expected = {"input": 1, "relu": 6, "max_pool2d": 1, behind: 2, "mean": 1}
    assert quantized_behind(prepared(warm("residual"), qat=qat)) == expected


def test_pooling_keeps_its_inputs_grid() -> None:
    graph = prepared(warm("residual"))
    pool = next(node for node in graph.graph.nodes if "max_pool2d" in str(node.target))
    before, after = (graph.get_submodule(str(n.target)) for n in (pool.args[0], next(iter(pool.users))))
    assert before is after


def test_logits_stay_float_unless_the_grid_says_otherwise() -> None:
    assert quantized_behind(prepared(warm("dense")))["linear"] == 0
    assert quantized_behind(prepared(warm("dense"), Grid("all", float_logits=False)))["linear"] == 1
    assert quantized_behind(prepared(warm("segments")))["conv2d"] == 1  # a convolution has no float-output kernel


def test_an_operator_that_the_grid_does_not_name_stays_float() -> None:
    behind = quantized_behind(prepared(warm("residual"), Grid("few", operators=("conv2d", "linear"))))
    # stem, the first of each pair, the strided one, and behind the first addition as the strided one's input;
    # the mean as the linear layer's input; both convolutions before an addition, though that computes in float
    assert behind == {"input": 1, "max_pool2d": 1, "relu": 5, "mean": 1, "conv2d": 2}


def test_an_operator_whose_integers_no_layer_reads_stays_float() -> None:
    """Attention's mask, what masks is made of, and the residual sum that a norm reads, with the layer before the sum."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = (x[..., :1] > 0).float().transpose(1, 2) * -6e4
            both = self.both(x)
            weights = (both @ both.transpose(1, 2) + hidden).softmax(-1)
            return nn.functional.layer_norm(x + self.out(weights @ both), (8,))

    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    graph = pt2e.prepare(Attention(), x, AFFINE, MinMax, False)
    assert quantized_behind(graph) == {"x": 1, "matmul": 1}


def test_what_a_linear_layer_gives_and_only_float_operators_read_stays_float_where_it_is_moved() -> None:
    """Queries, turned for a product in float. Behind a convolution, which gives integers, moving integers is the cheaper."""

    class Turned(nn.Module):
        def __init__(self, first: nn.Module) -> None:
            super().__init__()
            self.first = first

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x).reshape(2, 4, 16).transpose(1, 2).softmax(-1)

    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    linear = pt2e.prepare(Turned(nn.Linear(8, 8)), x, AFFINE, MinMax, False)
    assert quantized_behind(linear) == {"x": 1}
    convolution = pt2e.prepare(Turned(nn.Conv2d(1, 1, 3, 1, 1)), x, AFFINE, MinMax, False)
    assert quantized_behind(convolution) == {"x": 1, "conv2d": 1, "reshape": 1, "transpose": 1}
    alone = pt2e.prepare(Turned(nn.Linear(8, 8)), x, Grid("all", float_logits=False), MinMax, False)
    assert quantized_behind(alone) == {"x": 1, "linear": 1, "reshape": 1, "transpose": 1}


def test_an_activation_with_two_readers_is_not_absorbed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 1, 3, 1, 1), nn.Conv2d(1, 1, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x)
            return self.two(torch.relu(x)) + x

    assert quantized_behind(prepared(Two())) == {"x": 1, "conv2d": 2, "relu": 1, "add": 1}
