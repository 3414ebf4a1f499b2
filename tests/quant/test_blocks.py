"""Where a graph falls apart into blocks, checked by hand, and that a part computes what the whole does."""

from __future__ import annotations

import pytest
import torch
from quant.zoo import inputs, warm
from torch import nn
from torch.fx import GraphModule

from edgekd.errors import UserError
from edgekd.quant import pt2e
from edgekd.quant.adapter import in_float
from edgekd.quant.blocks import blocks, extract, layers
from edgekd.quant.grid import AFFINE
from edgekd.quant.precision import Precision

BY_HAND = {
    "residual": ["0.0", "2.first.0 … 2.second.0", "3.0", "4.first.0 … 4.second.0", "6"],
    "mobile": ["stem.0.0", "stem.1.0", "wide.0.0 … short.0", "head"],
    "odd": ["a … b", "c.0", "gate", "head"],
    "dense": ["1", "4", "6"],
    "segments": ["0.0", "1"],
}


def prepared(model: nn.Module) -> GraphModule:
    graph = pt2e.prepare(model, inputs(1), AFFINE, "minmax", False, Precision(stored=True))
    pt2e.calibrate(graph, [inputs(16)])
    graph.eval()
    return graph


@pytest.mark.parametrize("name", BY_HAND)
def test_blocks_by_hand(name: str) -> None:
    assert [block.name for block in blocks(prepared(warm(name)))] == BY_HAND[name]


def test_layers_of_a_residual_unit() -> None:
    graph = prepared(warm("residual"))
    first, second = layers(graph, blocks(graph)[1])
    assert (first.name, str(first.start), str(first.end)) == ("2.first.0", "max_pool2d", "relu_1")
    assert (second.name, str(second.start), str(second.end)) == ("2.second.0", "relu_1", "conv2d_2")


@pytest.mark.parametrize("name", BY_HAND)
def test_the_parts_one_after_another_are_the_whole(name: str) -> None:
    graph, x = prepared(warm(name)), inputs(5, 3)
    quantized = floats = x
    with torch.no_grad():
        for block in blocks(graph):
            part = extract(graph, block.start, [block.end])
            (quantized,) = part(quantized)
            with in_float(part):
                (floats,) = part(floats)
        assert torch.allclose(quantized, graph(x), atol=1e-6)
        assert torch.allclose(floats, warm(name)(x), atol=1e-4)


def test_a_part_shares_the_graphs_weights() -> None:
    graph = prepared(warm("dense"))
    part = extract(graph, blocks(graph)[1].start, [blocks(graph)[1].end])
    assert dict(part.named_parameters())["4.weight"] is graph.get_parameter("4.weight")


def test_a_batch_size_read_at_the_start_is_read_from_the_part() -> None:
    class Reshaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 2, 3, 2, 1), nn.Linear(392, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            count = x.shape[0]
            return self.two(torch.relu(self.one(x)).reshape(count, 392))

    graph, x = prepared(Reshaped()), inputs(3)
    first, last = blocks(graph)
    with torch.no_grad():
        (held,) = extract(graph, first.start, [first.end])(x)
        assert torch.allclose(extract(graph, last.start, [last.end])(held)[0], graph(x), atol=1e-6)


def test_more_than_one_tensor_from_before_is_one_block() -> None:
    class Long(nn.Module):
        """The input itself is added at the end, so that nothing before it carries all."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 1, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(torch.relu(self.one(x))) + x

    assert [block.name for block in blocks(prepared(Long()))] == ["one … two"]


def test_nothing_to_reconstruct_is_said() -> None:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    with pytest.raises(UserError, match="no blocks to reconstruct"):
        blocks(prepared(Nothing()))
