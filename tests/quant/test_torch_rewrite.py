"""Rewrites for delegates: the same values, in forms that have kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from quant.zoo import Products
from tiny import tiny_data, tiny_student
from torch import nn

from edgekd.backends.executorch import INTEGERS
from edgekd.metric import sqnr
from edgekd.quant.grid import AFFINE
from edgekd.quant.onnx_export import exported
from edgekd.quant.pt2e import calibrate, convert, prepare
from edgekd.quant.torch_graph import read_graph, write_graph
from edgekd.quant.torch_pairs import place, sites_of
from edgekd.quant.torch_rewrite import (
    DEQUANTIZE,
    QUANTIZE,
    QUANTIZE_WEIGHT,
    is_product,
    pair_constants,
    rewrite,
    round_inputs,
)

X = tiny_data().test[0][:8]
aten = torch.ops.aten


class Largest(nn.Module):
    """Ends in a maximum over space instead of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny_student(trained=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        net = self.net
        return net.head(net.dropout(net.down(net.block(net.stem(x))).amax((2, 3))))


def operators(graph: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_values_stay_and_forms_change(largest: bool, quantized: bool, tmp_path: Path) -> None:
    module: nn.Module = (Largest() if largest else tiny_student(trained=True)).eval()
    if quantized:
        prepared = prepare(module, X, AFFINE, "minmax", qat=False)
        calibrate(prepared, [X])
        module = convert(prepared)
    write_graph(exported(module, X[:1]), tmp_path)
    graph = read_graph(tmp_path)
    with torch.no_grad():
        before = torch.cat([graph(x[None])[0] for x in X])
        pairs = sum("quantize_per_tensor" in name for name in operators(graph))
        rewrite(graph, (X[:1],))
        after = torch.cat([graph(x[None])[0] for x in X])
    assert torch.allclose(before, after, rtol=0, atol=1e-6)
    found = operators(graph)
    assert not {"aten.dropout.default", "aten.amax.default"} & set(found)
    assert ("aten.max_pool2d.default" if largest else "aten.mean.dim") in found
    if quantized:
        weights = [name for name in found if "dequantize_per_channel" in name]
        assert len(weights) == 4  # of five layers: the last one's output is float
        assert sum("quantize_per_tensor" in name for name in found) <= pairs
        pool = next(n for n in graph.graph.nodes if str(n.target) in ("aten.mean.dim", "aten.max_pool2d.default"))
        assert [str(user.target) for user in pool.users] == ["quantized_decomposed.quantize_per_tensor.default"]


def test_every_integer_comes_back_from_the_float_that_it_stands_for() -> None:
    """All 256 integers, in channels whose steps span what floats can: quantized again by the operator, each is itself."""
    steps = torch.logspace(-30, 30, 1000, dtype=torch.float64).float()
    integers = torch.arange(-128, 128, dtype=torch.int8).expand(1000, 256)
    zeros = torch.zeros(1000, dtype=torch.int64)
    graph = torch.fx.Graph()
    held = {"w": integers.contiguous(), "s": steps, "z": zeros}
    nodes = [graph.create_node("get_attr", name, name=name) for name in held]
    dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
    graph.output([graph.call_function(dequantize, (*nodes, 0, -128, 127, torch.int8))])
    module = torch.fx.GraphModule(held, graph)
    before = module()[0]
    pair_constants(module)
    (pair,) = [node for node in module.graph.nodes if node.target is QUANTIZE_WEIGHT]
    assert str(pair.args[0].target) == "w_float" and torch.equal(module.w_float, before)
    again = QUANTIZE_WEIGHT(module.w_float, steps, zeros, 0, -128, 127, torch.int8)
    assert torch.equal(again, integers) and torch.equal(module()[0], before)


def test_a_constant_that_is_added_comes_back_with_its_zero_point() -> None:
    graph = torch.fx.Graph()
    held = {"c": torch.arange(-128, 128, dtype=torch.int8)}
    node = graph.create_node("get_attr", "c", name="c")
    graph.output([graph.call_function(DEQUANTIZE, (node, 0.037, -20, -128, 127, torch.int8))])
    module = torch.fx.GraphModule(held, graph)
    before = module()[0]
    pair_constants(module)
    (pair,) = [node for node in module.graph.nodes if node.target is QUANTIZE]
    assert torch.equal(getattr(module, str(pair.args[0].target)), before)
    assert torch.equal(QUANTIZE(before, *pair.args[1:]), held["c"]) and torch.equal(module()[0], before)


def test_large_products_keep_their_integers_and_round_what_they_read(tmp_path: Path) -> None:
    """Of the convolution's output the pair stays and is rounded again; of the norm's and the GELU's none is left."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = Products().eval(), torch.randn(8, 1, 28, 28)
    prepared = prepare(network, images, AFFINE, "minmax", qat=False)
    calibrate(prepared, [images])
    write_graph(exported(convert(prepared), images[:1]), tmp_path)
    program = read_graph(tmp_path)

    def computed(graph: torch.fx.GraphModule) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([graph(x[None])[0] for x in images])

    whole = computed(program)
    graph = rewrite(read_graph(tmp_path), (images[:1],), whole=False)
    assert [is_product(graph, node) for node in graph.graph.nodes if node.target is aten.linear.default] == [
        True,
        True,
        True,
        False,
    ]
    assert torch.allclose(computed(graph), whole, rtol=0, atol=1e-6)
    sites = sites_of(graph, INTEGERS)
    assert Counter(site.kind for site in sites) == {"Conv": 1, "Reshape": 2, "MatMul": 3}
    assert not any("quantize" in name for name in operators(place(graph, sites, ())))
    one = place(graph, sites, [site.name for site in sites if site.kind == "MatMul"][1:2])
    assert sum(is_product(one, node) for node in one.graph.nodes) == 1
    round_inputs(graph)
    found = operators(graph)
    assert sum("choose_qparams" in name for name in found) == 3
    assert sum("dequantize_per_channel" in name for name in found) == 4  # with the convolution
    rounded = [name for name in found if name.endswith(".quantize_per_tensor.default")]
    assert len(rounded) == 4  # the image, the convolution's output, that moved, and what the small layer reads
    with torch.no_grad():
        wanted = network(images).numpy()
    ours, theirs = sqnr(computed(graph).numpy(), wanted), sqnr(whole.numpy(), wanted)
    assert ours > theirs - 1 > 20  # a range of each call is none wider than one of all
