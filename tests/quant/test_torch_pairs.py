"""Pairs taken out of a graph for torch: numbers by hand, and a network whose operators leave the integers one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from quant.zoo import residual
from torch import fx

from edgekd.backends.executorch import INTEGERS
from edgekd.cuts import Link
from edgekd.metric import sqnr
from edgekd.quant.grid import AFFINE
from edgekd.quant.onnx_export import exported
from edgekd.quant.pt2e import calibrate, convert, prepare
from edgekd.quant.torch_graph import read_graph, write_graph
from edgekd.quant.torch_pairs import covered, links_of, place, sites_of
from edgekd.quant.torch_rewrite import DEQUANTIZE, DEQUANTIZE_WEIGHT, QUANTIZE, rewrite

aten = torch.ops.aten


def two_layers() -> fx.GraphModule:
    """x, in steps of 0.4 → × 0.5, in steps of 0.1 → × 0.5, in steps of 0.15. 0.5 is 2 steps of 0.25."""
    graph = fx.Graph()
    held = {
        "w": torch.tensor([[2]], dtype=torch.int8),
        "s": torch.tensor([0.25]),
        "z": torch.zeros(1, dtype=torch.int64),
    }
    last = graph.placeholder("x")

    def pair(node: fx.Node, step: float) -> fx.Node:
        grid = (step, 0, -128, 127, torch.int8)
        return graph.call_function(DEQUANTIZE, (graph.call_function(QUANTIZE, (node, *grid)), *grid))

    constants = [graph.create_node("get_attr", name, name=name) for name in held]
    last = pair(last, 0.4)
    for number, step in enumerate((0.1, 0.15), 1):
        weight = graph.call_function(DEQUANTIZE_WEIGHT, (*constants, 0, -128, 127, torch.int8))
        last = pair(
            graph.create_node("call_function", aten.linear.default, (last, weight), name=f"layer{number}"), step
        )
    graph.output([last])
    return fx.GraphModule(held, graph)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"layer1", "layer2"}, 0.15),  # 0.66 → 0.8 → 0.4 → 0.2 → 1 step of 0.15
        ({"layer1"}, 0.2),  # as before, but for the last rounding
        ({"layer2"}, 0.15),  # 0.66 → 0.33 → 0.3 → 0.15
        (set[str](), 0.165),
    ],
)
def test_numbers_by_hand(keep: set[str], expected: float) -> None:
    graph = two_layers()
    sites = sites_of(graph, {"Gemm"})
    assert [(site.name, site.reads, site.output) for site in sites] == [
        ("layer1", ("x",), "layer1"),
        ("layer2", ("layer1",), "layer2"),
    ]
    assert links_of(graph, sites) == [
        Link("x", None, ("layer1",)),
        Link("layer1", "layer1", ("layer2",)),
        Link("layer2", "layer2", (), leaves=True),
    ]
    assert covered(graph, sites) and not covered(graph, sites[:1]) and not sites_of(graph, {"Conv"})
    (found,) = place(graph, sites, keep)(torch.tensor([[0.66]]))
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_a_network_leaves_the_integers_operator_by_operator(tmp_path: Path) -> None:
    """With all it is the program, bit for bit, with none the float network but for its weights; each one out rounds less."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = residual().eval(), torch.randn(16, 1, 28, 28)
    prepared = prepare(network, images[:2], AFFINE, "minmax", qat=False)
    calibrate(prepared, [images])
    write_graph(exported(convert(prepared), images[:1]), tmp_path)
    graph = rewrite(read_graph(tmp_path), (images[:1],))
    sites = sites_of(graph, INTEGERS)
    assert Counter(site.kind for site in sites) == {"Conv": 6, "Add": 2, "MaxPool": 1, "AveragePool": 1, "Reshape": 1}
    assert covered(graph, sites)

    def computed(placed: fx.GraphModule) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([placed(image[None])[0] for image in images])

    names = [site.name for site in sites]
    with torch.no_grad():
        wanted = network(images).numpy()
    assert torch.equal(computed(place(graph, sites, names)), computed(graph))
    out = place(graph, sites, ())
    assert not any("quantize" in str(node.target) for node in out.graph.nodes)
    noise = [sqnr(computed(place(graph, sites, names[:count])).numpy(), wanted) for count in (0, 3, len(names))]
    assert noise[0] > noise[1] > noise[2] > 15
    first = place(graph, sites, names[:1])
    assert sum(node.target is DEQUANTIZE_WEIGHT for node in first.graph.nodes) == 1
    assert sum(node.target is QUANTIZE for node in first.graph.nodes) == 2  # what it reads, what it makes
    write_graph(exported(first, images[:1]), tmp_path)
    again = rewrite(read_graph(tmp_path), (images[:1],))
    torch.testing.assert_close(computed(again), computed(first), rtol=0, atol=1e-6)
