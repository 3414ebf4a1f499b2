"""Small ONNX files such as people bring: made by hand, of every awkward kind that edgekd promises to take or to refuse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """He-scaled normal weights."""
    return (np.random.default_rng(seed).standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)


def port(name: str, kind: int, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
    constants: bool = False,
    opset: int = 17,
) -> onnx.ModelProto:
    """`constants`: the weights are Constant nodes, not initializers."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    first = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] if constants else []
    graph = helper.make_graph([*first, *nodes], "g", inputs, outputs, [] if constants else tensors)
    domains = {"": opset, **{node.domain: 1 for node in nodes if node.domain}}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*one) for one in domains.items()], ir_version=10)


def convnet(path: Path, *, last: bool = False, constants: bool = False, seed: int = 0, **changes: Any) -> Path:
    """images [batch, 3, 16, 16] (`last`: [batch, 16, 16, 3]) → scores [batch, 5]; the batch is free."""
    shape: list[int | str] = ["batch", 16, 16, 3] if last else ["batch", 3, 16, 16]
    start = [helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])] if last else []
    weights = {
        "w1": random(32, 3, 3, 3, seed=seed),
        "b1": np.full(32, 0.1, np.float32),
        "w2": random(32, 32, 3, 3, seed=seed + 1),
        "w3": random(5, 32, seed=seed + 2) * 4,
    }
    nodes = [
        *start,
        helper.make_node("Conv", ["x" if last else "image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["scores"], transB=1),
    ]
    made = model(
        nodes, [port("image", FLOAT, shape)], [port("scores", FLOAT, ["batch", 5])], weights, constants, **changes
    )
    onnx.save(made, path)
    return path


def two_by_two(path: Path) -> Path:
    """left [batch, 8], right [batch, 12] → sum [batch, 6], gate [batch, 1]."""
    weights = {"wl": random(8, 6), "wr": random(12, 6, seed=1), "wg": random(6, 1, seed=2)}
    nodes = [
        helper.make_node("MatMul", ["left", "wl"], ["a"]),
        helper.make_node("MatMul", ["right", "wr"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("MatMul", ["sum", "wg"], ["g"]),
        helper.make_node("Sigmoid", ["g"], ["gate"]),
    ]
    inputs = [port("left", FLOAT, ["n", 8]), port("right", FLOAT, ["n", 12])]
    outputs = [port("sum", FLOAT, ["n", 6]), port("gate", FLOAT, ["n", 1])]
    onnx.save(model(nodes, inputs, outputs, weights), path)
    return path


def tokens(path: Path, length: int | str = 7) -> Path:
    """ids int64 [batch, length] → scores [batch, 4]: a table of 11 rows, the mean, a linear map."""
    weights = {"table": random(11, 16), "w": random(16, 4, seed=1)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "w"], ["scores"]),
    ]
    made = model(nodes, [port("ids", INT64, ["batch", length])], [port("scores", FLOAT, ["batch", 4])], weights)
    onnx.save(made, path)
    return path


def recurrent(path: Path) -> Path:
    """A step of a voice detector: audio [batch, 24], state [2, batch, 8], a scalar rate → speech [batch, 1], next [2, batch, 8]."""
    weights = {"w": random(24, 8), "v": random(8, 1, seed=1), "k": np.float32(1e-4), "axes": np.array([0], np.int64)}
    nodes = [
        helper.make_node("Cast", ["rate"], ["r"], to=FLOAT),
        helper.make_node("Mul", ["r", "k"], ["scale"]),
        helper.make_node("MatMul", ["audio", "w"], ["a"]),
        helper.make_node("Mul", ["a", "scale"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "axes"], ["u"]),
        helper.make_node("Add", ["u", "state"], ["s"]),
        helper.make_node("Tanh", ["s"], ["next"]),
        helper.make_node("ReduceMean", ["next"], ["m"], axes=[0], keepdims=0),
        helper.make_node("MatMul", ["m", "v"], ["l"]),
        helper.make_node("Sigmoid", ["l"], ["speech"]),
    ]
    inputs = [port("audio", FLOAT, [None, 24]), port("state", FLOAT, [2, None, 8]), port("rate", INT64, [])]
    outputs = [port("speech", FLOAT, [None, 1]), port("next", FLOAT, [None, None, None])]
    onnx.save(model(nodes, inputs, outputs, weights), path)
    return path


def custom(path: Path) -> Path:
    """y = com.example.Wobble(x @ w)."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Wobble", ["m"], ["y"], name="wobble", domain="com.example"),
    ]
    onnx.save(model(nodes, [port("x", FLOAT, [1, 4])], [port("y", FLOAT, [1, 4])], {"w": random(4, 4)}), path)
    return path


def linear_teacher(path: Path, softmax: bool) -> None:
    """Logits of images [batch, 1, 16, 16] in 4 classes, batch free: a random linear map; a second output to ignore."""
    weight = np.random.default_rng(0).standard_normal((256, 4)).astype(np.float32) / 16
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["raw"]),
        helper.make_node("Softmax" if softmax else "Identity", ["raw"], ["classes"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 1, 16, 16])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("classes", 4), ("flat", 256))
    ]
    weights = [numpy_helper.from_array(weight, "w")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [pixels], outputs, weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, path)
