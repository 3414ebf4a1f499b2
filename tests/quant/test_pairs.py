"""Pairs written around chosen operators: the integers by hand, what stays float, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_models as models
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edgekd.backends.onnxruntime import INTEGERS
from edgekd.cuts import Link
from edgekd.metric import sqnr
from edgekd.onnx import file as onnx_file
from edgekd.onnx.slim import outputs_of
from edgekd.quant.pairs import affine, place, symmetric
from edgekd.quant.sites import Site, Span, links_of, numbered, ranges, seeds, sites_of

Feed = dict[str, np.ndarray]


def convnet(tmp_path: Path) -> tuple[onnx.ModelProto, list[Feed]]:
    model = onnx_file.load(models.convnet(tmp_path / "net.onnx"))
    onnx_file.fix_batch(model)
    random = np.random.default_rng(0)
    return numbered(model), [{"image": random.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(6)]


def computed(model: onnx.ModelProto, feeds: Sequence[Feed]) -> np.ndarray:
    return np.stack([found[0] for found in outputs_of(model, [model.graph.output[0].name], feeds)])


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def optimised(model: onnx.ModelProto, file: Path) -> Counter[str]:
    settings = ort.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(file), 3
    ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return kinds(onnx.load(file))


def test_sites_are_operators_with_the_relu_behind_them_and_links_what_passes(tmp_path: Path) -> None:
    model, feeds = convnet(tmp_path)
    sites = sites_of(model, INTEGERS, ranges(model, feeds))
    assert [(site.kind, site.nodes) for site in sites] == [
        ("Conv", ("n0", "n1")),
        ("Conv", ("n2", "n3")),
        ("GlobalAveragePool", ("n4",)),
        ("Flatten", ("n5",)),
        ("Gemm", ("n6",)),
    ]
    assert sites[0].weight == ("w1", 0)
    assert (sites[0].bias, sites[1].bias) == ("b1", "")
    assert links_of(model, sites) == [
        Link("image", None, ("n0",)),
        Link("r1", "n0", ("n2",)),
        Link("r2", "n2", ("n4",)),
        Link("p", "n4", ("n5",)),
        Link("f", "n5", ("n6",)),
        Link("scores", "n6", (), leaves=True, free=True),
    ]
    assert seeds(sites) == [frozenset({"n0", "n2", "n5", "n6"}), frozenset({"n0", "n2", "n4", "n5"})]
    assert sites_of(model, frozenset({"Gemm"}), {}) == []


def test_all_of_it_becomes_integer_kernels_and_none_of_it_stays_as_it_was(tmp_path: Path) -> None:
    model, feeds = convnet(tmp_path)
    spans = ranges(model, feeds)
    sites = sites_of(model, INTEGERS, spans)
    whole = place(model, sites, {site.name for site in sites}, spans)
    onnx.checker.check_model(whole, full_check=True)
    found = optimised(whole, tmp_path / "seen.onnx")
    assert found["QLinearConv"] == 2
    assert found["QGemm"] == found["QuantizeLinear"] == 1  # of the input; the last kernel gives floats
    assert not {"Conv", "Relu", "DequantizeLinear", "Gemm"} & {*found}
    assert sqnr(computed(whole, feeds), computed(model, feeds)) > 30
    none = place(model, sites, (), spans)
    assert kinds(none) == kinds(model) and [entry.domain for entry in whole.opset_import] == [""]
    assert np.array_equal(computed(none, feeds), computed(model, feeds))


def test_what_stays_float_keeps_its_weights_and_reads_floats(tmp_path: Path) -> None:
    model, feeds = convnet(tmp_path)
    spans = ranges(model, feeds)
    placed = place(model, sites_of(model, INTEGERS, spans), {"n2"}, spans)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in placed.graph.initializer}
    assert np.array_equal(stored["w1"], models.random(32, 3, 3, 3))
    assert "w2" not in stored
    assert stored["w2_i"].dtype == np.int8
    assert kinds(placed)["QuantizeLinear"] == 2  # before the second convolution, and behind its ReLU
    nodes = {node.name: node for node in placed.graph.node}
    assert nodes["n4"].input[0] == "r2"  # what a DequantizeLinear makes now: an integer kernel made the tensor
    assert nodes["n3"].output[0] != "r2"
    assert nodes["n2"].input[0] != "r1"


def test_weights_biases_and_ranges_by_hand() -> None:
    """y = x w + b: x in [−1, 1.55], a step of 0.01 and a zero of 100; columns of w up to 1.27 and 2.54."""
    weight, bias = np.array([[1.27, -2.54], [0.5, 0.02]], np.float32), np.array([0.0123, -0.5], np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="n0")
    ports = [models.port("x", models.FLOAT, [1, 2])], [models.port("y", models.FLOAT, [1, 2])]
    model = models.model([node], *ports, {"w": weight, "b": bias})
    (site,) = sites_of(model, INTEGERS, spans := {"x": Span(-1.0, 1.55), "y": Span(-9.0, 9.0)})
    assert site == Site(("n0",), "Gemm", ("x",), "y", ("w", 1), "b")
    stored = {t.name: numpy_helper.to_array(t) for t in place(model, [site], {"n0"}, spans).graph.initializer}
    assert (stored["x_zero"].dtype, int(stored["x_zero"])) == (np.uint8, 100)
    assert float(stored["x_scale"]) == pytest.approx(0.01)
    assert stored["w_is"] == pytest.approx([0.01, 0.02])
    assert stored["w_i"].tolist() == [[127, -127], [50, 1]]
    assert stored["b_i"].dtype == np.int32
    assert stored["b_i"].tolist() == [123, -2500]  # over 0.01 × 0.01 and 0.01 × 0.02
    assert symmetric(np.zeros((2, 2), np.float32), 0).tolist() == [1.0, 1.0]
    assert symmetric(np.full((1, 2), 1e-44, np.float32), 0)[0] > 0, "no weight is divided by nothing"
    assert int(affine(0.0, 0.0)[1]) == 0


def test_moved_values_keep_their_grid_and_constants_of_sums_become_integers(tmp_path: Path) -> None:
    """x → Reshape → MatMul → Add a constant → y: the reshape's pair is the input's, though its own range is not."""
    weights = {
        "shape": np.array([2, 8], np.int64),
        "w": models.random(8, 8),
        "c": np.linspace(-1, 1, 8, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], name="n0"),
        helper.make_node("MatMul", ["r", "w"], ["m"], name="n1"),
        helper.make_node("Add", ["m", "c"], ["y"], name="n2"),
    ]
    model = models.model(
        nodes, [models.port("x", models.FLOAT, [16])], [models.port("y", models.FLOAT, [2, 8])], weights
    )
    feeds = [{"x": np.random.default_rng(i).standard_normal(16).astype(np.float32)} for i in range(4)]
    spans = {**ranges(model, feeds), "r": Span(-100.0, 100.0)}
    sites = sites_of(model, INTEGERS, spans)
    whole = place(model, sites, {site.name for site in sites}, spans)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    assert stored["r_scale"] == stored["x_scale"]
    assert stored["c_i"].dtype == np.uint8
    found = optimised(whole, tmp_path / "seen.onnx")
    assert (found["QLinearMatMul"], found["QLinearAdd"], found["QuantizeLinear"]) == (1, 1, 1)
    assert sqnr(computed(whole, feeds), computed(model, feeds)) > 30
    alone = place(model, sites, {"n0"}, spans)
    assert sqnr(computed(alone, feeds), computed(model, feeds)) > 30


def test_what_is_no_finite_number_stays_float() -> None:
    """y = x + √x: of a negative x the root is NaN, so nothing that reads it is a site."""
    nodes = [
        helper.make_node("Sqrt", ["x"], ["r"], name="n0"),
        helper.make_node("Add", ["x", "r"], ["y"], name="n1"),
        helper.make_node("Add", ["x", "x"], ["z"], name="n2"),
    ]
    ports = [models.port("x", models.FLOAT, [2])], [models.port(name, models.FLOAT, [2]) for name in "yz"]
    model = models.model(nodes, *ports, {})
    spans = ranges(model, [{"x": np.array([1, 4], np.float32)}, {"x": np.array([-1, 9], np.float32)}])
    assert spans == {"x": Span(-1, 9, 2), "z": Span(-2, 18, 2)}
    assert [site.name for site in sites_of(model, INTEGERS, spans)] == ["n2"]


@pytest.mark.parametrize("observer", ["percentile", "entropy"])
def test_other_observers_draw_ranges_of_the_same_tensors(tmp_path: Path, observer: str) -> None:
    model, feeds = convnet(tmp_path)
    whole, narrow = ranges(model, feeds), ranges(model, feeds, observer)
    assert narrow.keys() == whole.keys()
    assert narrow["image"].high <= whole["image"].high
    assert 0.2 * whole["r1"].high < narrow["r1"].high < 1.001 * whole["r1"].high  # the middle of a bin
    assert narrow["r1"].size == 32 * 16 * 16


def test_a_recurrent_operator_becomes_the_runtimes_own_with_weights_by_hand(tmp_path: Path) -> None:
    hidden, inputs = 8, 6
    weights = {"w": models.random(1, 4 * hidden, inputs), "r": models.random(1, 4 * hidden, hidden, seed=1)}
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y", "", ""], hidden_size=hidden, name="n0")]
    ports = [models.port("x", models.FLOAT, [5, 1, inputs])], [models.port("y", models.FLOAT, [5, 1, 1, hidden])]
    model = models.model(nodes, *ports, weights)
    feeds = [{"x": np.random.default_rng(i).standard_normal((5, 1, inputs)).astype(np.float32)} for i in range(4)]
    (site,) = sites = sites_of(model, INTEGERS, {})
    assert (site.kind, site.reads, links_of(model, sites), seeds(sites)) == ("LSTM", (), [], [])
    placed = place(model, sites, {"n0"}, {})
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in placed.graph.initializer}
    assert stored["w_i"].shape == (1, inputs, 4 * hidden)
    assert stored["w_is"][0, 3] == pytest.approx(np.abs(weights["w"][0, 3]).max() / 127)
    assert stored["w_i"][0, 2, 3] == round(float(weights["w"][0, 3, 2] / stored["w_is"][0, 3]))
    assert kinds(placed) == {"DynamicQuantizeLSTM": 1}
    assert sqnr(computed(placed, feeds), computed(model, feeds)) > 30
