"""Program folders made by hand with ONNX alone, for tests of what takes programs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

CHANNELS, SIDE, CLASSES = 8, 8, 5


def _tensor(name: str, value: Any, dtype: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)


def float_model(batch: int | str = 1, width: int = CHANNELS) -> onnx.ModelProto:
    """x [batch, 1, 8, 8] to y [batch, 5]: convolution, ReLU, convolution, ReLU, mean over space, linear."""
    random = np.random.default_rng(1)
    held = [
        _tensor("w1", random.normal(0, 0.3, (width, 1, 3, 3)), np.float32),
        _tensor("w2", random.normal(0, 0.2, (width, width, 3, 3)), np.float32),
        _tensor("w3", random.normal(0, 0.3, (CLASSES, width)), np.float32),
        _tensor("b3", random.normal(0, 0.1, CLASSES), np.float32),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    return _model(nodes, held, batch)


def int8_model() -> onnx.ModelProto:
    """The same net with Q/DQ pairs as the torch exporter writes them: s8 activations, s8 weights per channel."""
    source = float_model()
    held = {t.name: numpy_helper.to_array(t) for t in source.graph.initializer}
    step = (0.02 * np.abs(held["w3"]).max(axis=1) / 127).astype(np.float32)  # biases are whole multiples of s_x s_w
    kept: list[onnx.TensorProto] = [_tensor("b3", np.rint(held["b3"] / step) * step, np.float32)]
    nodes: list[onnx.NodeProto] = []

    def pair(name: str, scale: float, zero: int) -> str:
        kept.extend((_tensor(f"{name}_s", scale, np.float32), _tensor(f"{name}_z", zero, np.int8)))
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [f"{name}_d"]))
        return f"{name}_d"

    def weight(name: str) -> str:
        value = held[name]
        scale = np.abs(value).reshape(len(value), -1).max(axis=1) / 127
        whole = np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1)))
        kept.extend(
            (
                _tensor(f"{name}_i", whole, np.int8),
                _tensor(f"{name}_s", scale, np.float32),
                _tensor(f"{name}_z", np.zeros(len(value)), np.int8),
            )
        )
        names = [f"{name}_i", f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("DequantizeLinear", names, [f"{name}_d"], axis=0))
        return f"{name}_d"

    nodes.append(
        helper.make_node("Conv", [pair("x", 0.03, -3), weight("w1")], ["c1"], kernel_shape=[3, 3], pads=[1] * 4)
    )
    nodes.append(helper.make_node("Relu", ["c1"], ["r1"]))
    nodes.append(
        helper.make_node("Conv", [pair("r1", 0.02, -128), weight("w2")], ["c2"], kernel_shape=[3, 3], pads=[1] * 4)
    )
    nodes.append(helper.make_node("Relu", ["c2"], ["r2"]))
    nodes.append(helper.make_node("GlobalAveragePool", [pair("r2", 0.03, -128)], ["p"]))
    nodes.append(helper.make_node("Flatten", [pair("p", 0.02, -128)], ["f"]))
    nodes.append(helper.make_node("Gemm", [pair("f", 0.02, -128), weight("w3"), "b3"], ["y"], transB=1))
    return _model(nodes, kept, 1)


def symmetric_model() -> onnx.ModelProto:
    """The int8 model with every zero point at zero and float biases: what the symmetric grid gives."""
    model = int8_model()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.size == 1:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(values), tensor.name))
    return model


def _model(nodes: list[onnx.NodeProto], held: list[onnx.TensorProto], batch: int | str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
        held,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def unoptimised(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What the model as it came gives for x, by ONNX Runtime with every optimisation off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


def graph_of(model: onnx.ModelProto) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """graph.json and weights for the same net, node by node; KeyError for an operator that is in neither net above."""
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kept: dict[str, np.ndarray] = {}
    nodes: list[list[Any]] = []

    def ref(name: str) -> dict[str, str]:
        if name in held:
            kept[name] = held[name]
        return {"node": name}

    for node in model.graph.node:
        first, *rest = node.input
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            kind = node.op_type.removesuffix("Linear").lower()
            if first in held:
                held[rest[1]] = held[rest[1]].astype(np.int64)
                operator, more = f"{kind}_per_channel", [ref(rest[0]), ref(rest[1]), 0, -127, 127]
            else:
                operator, more = f"{kind}_per_tensor", [float(held[rest[0]]), int(held[rest[1]]), -128, 127]
            operator, more = f"quantized_decomposed.{operator}.default", [*more, {"dtype": "int8"}]
        else:
            operator, more = {
                "Conv": ("aten.conv2d.default", [*map(ref, rest), None, [1, 1], [1, 1]]),
                "Relu": ("aten.relu.default", []),
                "GlobalAveragePool": ("aten.mean.dim", [[2, 3], True]),
                "Flatten": ("aten.flatten.using_ints", [1]),
                "Gemm": ("aten.linear.default", [*map(ref, rest)]),
            }[node.op_type]
        nodes.append([node.output[0], operator, [ref(first), *more], {"table": {}}])
    outputs = [{"node": value.name} for value in model.graph.output]
    return {"format": 1, "inputs": [v.name for v in model.graph.input], "nodes": nodes, "output": outputs}, kept


def write_program(folder: Path, model: onnx.ModelProto | None = None, precision: str = "float32", **about: Any) -> Path:
    """A program folder that holds `model` (default: the float one)."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model or float_model()
    onnx.save(model, folder / "model.onnx")
    facts = {"precision": precision, "grid": "affine" if precision == "int8" else "none", **about}
    (folder / "program.json").write_text(json.dumps(facts))

    def port(value: onnx.ValueInfoProto) -> dict[str, Any]:
        dims = value.type.tensor_type.shape.dim
        shape = [d.dim_value or d.dim_param for d in dims]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        return {"name": value.name, "shape": shape, "dtype": dtype}

    signature = {
        "inputs": [port(v) for v in model.graph.input],
        "outputs": [port(v) for v in model.graph.output],
        "preprocessing": {"mean": [0.5], "std": [0.25]},
        "labels": ["a", "b", "c", "d", "e"],
    }
    (folder / "signature.json").write_text(json.dumps(signature))
    with contextlib.suppress(KeyError):
        graph, weights = graph_of(model)
        (folder / "graph.json").write_text(json.dumps(graph))
        safetensors.numpy.save_file(weights, folder / "weights.safetensors")
    return folder
