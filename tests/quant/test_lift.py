"""Pairs taken out of a quantized program: nothing changes while all are back, and what is left out is its own numbers in float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekd.backends.onnxruntime import INTEGERS
from edgekd.metric import sqnr
from edgekd.onnx.slim import outputs_of, slimmed
from edgekd.quant.grid import AFFINE
from edgekd.quant.lift import Constant, lift
from edgekd.quant.onnx_export import export_onnx
from edgekd.quant.pairs import place
from edgekd.quant.pt2e import calibrate, convert, prepare
from edgekd.quant.rebase import rebase
from edgekd.quant.sites import numbered, ranges

Feed = dict[str, np.ndarray]


class Attends(nn.Module):
    """images [batch, 1, 8, 8] → [batch, 4]: a convolution, then attention over its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU6())
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(128, 4)
        self.query, self.value, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x).transpose(1, 2).reshape(-1, 8, 16)
        n = self.norm(h)
        q, v = self.query(n), self.value(n)
        h = h + self.out(torch.softmax(q @ n.transpose(1, 2), -1) @ v)
        return self.head(torch.nn.functional.gelu(h).flatten(1))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, list[Feed]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = Attends().eval(), torch.randn(8, 1, 8, 8)
    prepared = prepare(network, images[:2], AFFINE, "minmax", qat=False)
    calibrate(prepared, [images])
    file = tmp_path_factory.mktemp("program") / "model.onnx"
    export_onnx(convert(prepared), images[:1], file)
    return onnx.load(file), [{"input": images[i : i + 1].numpy()} for i in range(8)]


def computed(model: onnx.ModelProto, feeds: list[Feed]) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return np.stack([found[0] for found in outputs_of(model, [model.graph.output[0].name], feeds)])


def test_with_all_pairs_back_it_is_the_program_and_each_taken_out_only_rounds_less(
    program: tuple[onnx.ModelProto, list[Feed]],
) -> None:
    """Folding put reshapes around the products and transposed their weights: their integers are found again, by value."""
    model, feeds = program
    before = model.SerializeToString()
    lifted, held = lift(model)
    assert model.SerializeToString() == before
    floats = numbered(slimmed(lifted, feeds[0]))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in floats.graph.node}
    held = held.folded(floats)
    spans = ranges(floats, feeds[:1])
    sites = held.sites(floats, INTEGERS, spans)
    weighted = [site for site in sites if site.weight]
    assert sorted(site.kind for site in weighted) in (["Conv", *["Gemm"] * 4], ["Conv", *["Gemm"] * 3, "MatMul"])
    assert not held.covered_by(sites)  # weights were transposed: there may be something to find

    def placed(keep: set[str]) -> onnx.ModelProto:
        return rebase(place(floats, sites, keep, spans, held))

    every = {site.name for site in sites}
    whole, exact = computed(rebase(model), feeds), computed(floats, feeds)
    np.testing.assert_array_equal(computed(placed(every), feeds), whole)
    np.testing.assert_array_equal(computed(placed(set()), feeds), exact)
    conv = next(site.name for site in weighted if site.kind == "Conv")
    some = computed(placed({conv}), feeds)
    assert sqnr(whole, exact) < sqnr(some, exact) < 100
    left = placed(every - {conv})
    conv_node = next(node for node in left.graph.node if node.op_type == "Conv")
    (weight,) = (numpy_helper.to_array(t) for t in left.graph.initializer if t.name == conv_node.input[1])
    integers = weight / np.abs(weight).max((1, 2, 3), keepdims=True) * 127
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-3)  # its own numbers, on their grid, as floats


def pairs(source: str, target: str, scale: str, zero: str = "zero") -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_q"]),
        helper.make_node("DequantizeLinear", [f"{target}_q", scale, zero], [target]),
    ]


def test_by_hand(tmp_path: Path) -> None:
    """y = [[2, −4], [1, 1]] · 0.5 x on grids of steps 0.25 and 1; the output is a tensor that a pair gave; 1 · x is quantized anew."""
    nodes = [
        *pairs("x", "xd", "quarter"),
        helper.make_node("DequantizeLinear", ["w", "halves", "zeros"], ["wd"], axis=0),
        helper.make_node("Gemm", ["xd", "wd"], ["p"], transB=1),
        *pairs("p", "y", "one"),
        *pairs("y", "z", "quarter"),
    ]
    held = {
        "quarter": np.float32(0.25),
        "one": np.float32(1),
        "zero": np.int8(3),
        "w": np.array([[4, -8], [2, 2]], np.int8),
        "halves": np.array([0.25, 0.25], np.float32),
        "zeros": np.zeros(2, np.int8),
    }
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xyz"]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    lifted, found = lift(model)
    assert [node.op_type for node in lifted.graph.node] == ["Gemm", "QuantizeLinear", "DequantizeLinear"]
    assert {name: float(scale) for name, (scale, _) in found.grids.items()} == {"x": 0.25, "y": 1.0}
    assert found.constants["wd"].floats().tolist() == [[1.0, -2.0], [0.5, 0.5]]
    feed = {"x": np.array([[1.1, 0.3]], np.float32)}
    (exact,) = outputs_of(lifted, ["y", "z"], [feed])
    np.testing.assert_allclose(exact[0], [[0.5, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(exact[1], [[0.5, 0.75]], rtol=1e-6)
    floats = numbered(lifted)
    spans = ranges(floats, [feed])
    (site,) = found.sites(floats, INTEGERS, spans)
    (back,) = outputs_of(place(floats, [site], {site.name}, spans, found), ["y"], [feed])
    assert back[0].tolist() == [
        [0.5, 0.625]
    ]  # x rounds to 1, 0.25; the product is its kernel's, unrounded: nothing reads it
    assert found.covered_by([site])


def test_a_constant_of_several_scales_is_turned_with_its_axis() -> None:
    one = Constant(np.array([[1, 2, 3], [4, 5, 6]], np.int8), np.array([1.0, 0.5], np.float32), np.zeros(2, np.int8), 0)
    assert one.transposed().axis == 1
    np.testing.assert_array_equal(one.transposed().floats(), one.floats().T)
    assert one.floats()[1].tolist() == [2.0, 2.5, 3.0]
