"""Rewrites of a float graph: what they change, that it computes the same, and what they leave alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_models as models
from onnx import helper, numpy_helper

from edgekd import worker
from edgekd.latency.statistics import Ratio
from edgekd.onnx import file as onnx_file
from edgekd.onnx.slim import computes_the_same
from edgekd.pipeline.place_steps import _no_rewrite
from edgekd.rewrites import _rewritten
from edgekd.rewrites.flat import flat


def audio() -> onnx.ModelProto:
    """x [1, 4, 64] → convolution, ReLU, pool, twice added to itself, a constant, → [1, 8, 16] and its mean."""
    weights = {"w1": models.random(8, 4, 5), "w2": models.random(8, 8, 3, seed=1), "c": models.random(8, 1, seed=2)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[4, 4], dilations=[2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["p"], kernel_shape=[4], strides=[4]),
        helper.make_node("Conv", ["p", "w2"], ["d"], pads=[1, 1], group=1),
        helper.make_node("Add", ["d", "p"], ["e"]),
        helper.make_node("Mul", ["e", "c"], ["y"]),
        helper.make_node("Softmax", ["y"], ["s"], axis=2),
    ]
    ports = [models.port("x", models.FLOAT, [1, 4, 64])], [models.port(n, models.FLOAT, [1, 8, 16]) for n in ("y", "s")]
    return models.model(nodes, *ports, weights)


def test_convolutions_over_one_axis_become_ones_over_two_with_one_way_in_and_out() -> None:
    before = audio()
    after = flat(before)
    assert after is not None
    onnx.checker.check_model(after, full_check=True)
    assert computes_the_same(
        after, before, {"x": np.random.default_rng(0).standard_normal((1, 4, 64)).astype(np.float32)}
    )
    found = Counter(node.op_type for node in after.graph.node)
    assert (found["Unsqueeze"], found["Squeeze"]) == (1, 1)
    assert [list(t.dims) for t in after.graph.initializer if t.name == "w1_flat"] == [[8, 4, 1, 5]]


def test_what_is_over_two_axes_already_is_left_alone(tmp_path: Path) -> None:
    assert flat(onnx_file.load(models.convnet(tmp_path / "net.onnx"))) is None


def test_a_rewrite_that_fails_or_computes_something_else_says_so() -> None:
    before, feed = audio(), {"x": np.ones((1, 4, 64), np.float32)}

    def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        (weight,) = [t for t in copied.graph.initializer if t.name == "c"]
        weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), "c"))
        return copied

    def broken(model: onnx.ModelProto) -> onnx.ModelProto:
        raise KeyError

    assert _rewritten(flat, before, before, feed)[1] == ""
    assert _rewritten(lambda model: None, before, before, feed) == (None, "")
    assert _rewritten(doubled, before, before, feed) == (None, "it computes something else")
    assert _rewritten(broken, before, before, feed) == (None, "KeyError")
    ratio = Ratio(1.1, 1.05, 1.15)
    assert _no_rewrite({}, {}) == "no rewrite applies to this graph"
    assert _no_rewrite({"flat": ratio}, {"fusions": "KeyError"}) == (
        "no rewrite is faster: flat 1.10× (1.05 to 1.15); fusions: KeyError"
    )


def test_rewrites_are_written_by_a_worker_each_alone_and_both(tmp_path: Path) -> None:
    program, out = tmp_path / "program", tmp_path / "out"
    program.mkdir()
    out.mkdir()
    model = audio()
    onnx_file.write_program(program, model, onnx_file.signature(model, "it"), "float32")
    request = {"program": str(program), "out": str(out), "rewrites": ["flat", "fusions"]}
    assert worker.call("edgekd.rewrites:write", request) == {"made": ["slim", "flat"], "refused": {}}
    kinds = {node.op_type for node in onnx.load(out / "flat.onnx").graph.node}
    assert "Squeeze" in kinds
