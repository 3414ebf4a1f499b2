"""Rewrites of a quantized ONNX graph that keep every value, so that a runtime finds its integer kernels. No torch.

Each is a function from model to model, changed in place; `rebase` runs them in the order that the list there shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = [
    "biases_to_int32",
    "biases_to_vectors",
    "graphs_within",
    "own_zero_points",
    "read_within",
    "reductions_to_pools",
    "s8_to_u8",
]

Array = NDArray[np.generic]


class Index:
    """Who makes and who reads each tensor of a graph, and its constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.within = {
            name
            for inner in graphs_within(model.graph)
            for name in (*(held.name for held in inner.initializer), *(n for node in inner.node for n in node.output))
        }
        self.outside = {value.name for value in model.graph.output} | set(read_within(model.graph))

    def array(self, name: str) -> Array | None:
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def free(self, name: str) -> str:
        """The name, made unique, also among those of graphs inside nodes."""
        taken = {value.name for value in self.graph.input} | self.within
        while name in self.constants or name in self.maker or name in taken:
            name += "_"
        return name

    def add(self, name: str, value: Array) -> str:
        """A new constant; returns its name, made unique."""
        name = self.free(name)
        self.constants[name] = numpy_helper.from_array(value, name)
        self.graph.initializer.append(self.constants[name])
        return name

    def only_reader(self, name: str) -> NodeProto | None:
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.outside else None


def graphs_within(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside nodes, as of an If or a Loop, at any depth."""
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield inner
            yield from graphs_within(inner)


def read_within(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that those graphs read."""
    for inner in graphs_within(graph):
        yield from (name for one in inner.node for name in one.input)
        yield from (value.name for value in inner.output)


def s8_to_u8(model: onnx.ModelProto) -> None:
    """Activations from s8 with zero point z to u8 with z + 128; weights stay s8.

    (q − z) · s = ((q + 128) − (z + 128)) · s, so every dequantized value stays; x86's VNNI multiplies u8 by s8. Only where a
    QuantizeLinear's integers go into DequantizeLinear nodes alone: a file as it comes may hand them to an integer operator,
    another graph or the caller, or take them from there, and what those expect stays s8.
    """
    index = Index(model)
    rebased: dict[str, str] = {}
    for node in model.graph.node:
        readers = index.readers[node.output[0]] if node.op_type == "QuantizeLinear" else []
        pairs = [node, *readers]
        held = node.input[0] in index.constants  # a weight in float, quantized when the file is opened
        if not readers or held or node.output[0] in index.outside or not all(_is_s8(index, one) for one in pairs):
            continue
        if any(reader.op_type != "DequantizeLinear" or reader.input[0] != node.output[0] for reader in readers):
            continue
        for one in pairs:
            name = one.input[2]
            if name not in rebased:
                zero = numpy_helper.to_array(index.constants[name])
                rebased[name] = index.add(f"{name}_u8", (zero.astype(np.int16) + 128).astype(np.uint8))
            one.input[2] = rebased[name]
        for value in model.graph.value_info:
            if value.name == node.output[0]:
                value.type.tensor_type.elem_type = TensorProto.UINT8


def _is_s8(index: Index, node: NodeProto) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear has a constant s8 zero point, and says its type by that alone."""
    zero = index.array(node.input[2]) if len(node.input) > 2 else None
    return (
        zero is not None and zero.dtype == np.int8 and not any(a.name == "output_dtype" and a.i for a in node.attribute)
    )


def own_zero_points(model: onnx.ModelProto) -> None:
    """Each weight's DequantizeLinear gets a zero point that no other node reads.

    On CPUs where u8·s8 products overflow int16 (AVX2 and AVX-512 without VNNI), ONNX Runtime must be told to turn s8 weights
    into u8, by the session entry "session.x64quantprecision" = "1"; version 1.31 then fails on a zero point that two weights
    share ("Attempt to replace the existing tensor").
    """
    index, seen = Index(model), set[str]()
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in index.constants or len(node.input) < 3:
            continue
        name, zero = node.input[2], index.array(node.input[2])
        if name in seen and zero is not None:
            node.input[2] = index.add(f"{node.input[0]}_zero", zero)
        seen.add(name)


def biases_to_vectors(model: onnx.ModelProto) -> None:
    """A Gemm's constant bias [1, N] becomes [N].

    ONNX Runtime 1.31's quantizer gives it a scale for each of N channels along its first axis, and its kernel then refuses it.
    """
    index = Index(model)
    for node in model.graph.node:
        bias = index.array(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and bias.ndim == 2 and bias.shape[0] == 1:
            node.input[2] = index.add(f"{node.input[2]}_vector", bias.reshape(-1))


def biases_to_int32(model: onnx.ModelProto) -> None:
    """A float bias of an integer Conv, Gemm or MatMul becomes int32 behind a DequantizeLinear of scale s_x · s_w.

    `edgekd.quant.fold.settle_weights` made each bias a whole multiple of that scale, so the values stay; a bias that is
    not, or that does not fit, is left as it is. A MatMul's is in the addition behind it.
    """
    index = Index(model)
    for node in list(model.graph.node):
        reader, place = _biased(index, node)
        if reader is None:
            continue
        bias = index.array(reader.input[place])
        scales = [_scale(index, node.input[i]) for i in (0, 1)]
        if bias is None or bias.dtype != np.float32 or scales[0] is None or scales[1] is None or scales[0].size != 1:
            continue
        if bias.ndim != 1 or scales[1].ndim > 1 or scales[1].size not in (1, bias.size):
            continue  # a row of biases, blocks of weights: no axis of the bias has these scales
        step = np.float32(scales[0].reshape(())) * np.broadcast_to(scales[1].astype(np.float32).reshape(-1), bias.shape)
        whole = np.rint(bias.astype(np.float64) / step)
        if np.abs(whole).max() >= 2**31 or not np.allclose(whole.astype(np.float32) * step, bias, rtol=1e-6, atol=0):
            continue
        name = reader.input[place]
        inputs = [
            index.add(f"{name}_s32", whole.astype(np.int32)),
            index.add(f"{name}_scale", step),
            index.add(f"{name}_zero", np.zeros(step.shape, np.int32)),
        ]
        dequantize = helper.make_node("DequantizeLinear", inputs, [f"{inputs[0]}_dequantized"], axis=0)
        position = list(model.graph.node).index(reader)
        reader.input[place] = dequantize.output[0]
        model.graph.node.insert(position, dequantize)


def _biased(index: Index, node: NodeProto) -> tuple[NodeProto | None, int]:
    """The node that adds a layer's bias, and which of its inputs that is."""
    if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
        return node, 2
    reader = index.only_reader(node.output[0]) if node.op_type == "MatMul" else None
    if reader is None or reader.op_type != "Add":
        return None, 0
    return reader, 1 - list(reader.input).index(node.output[0])


def _scale(index: Index, name: str) -> Array | None:
    """The scale of the DequantizeLinear that makes a tensor, or whose transposed output it is."""
    maker = index.maker.get(name)
    if maker is not None and maker.op_type == "Transpose":
        maker = index.maker.get(maker.input[0])
    return index.array(maker.input[1]) if maker is not None and maker.op_type == "DequantizeLinear" else None


def reductions_to_pools(model: onnx.ModelProto) -> None:
    """ReduceMean or ReduceMax over both spatial axes becomes a pool over the whole image, and a Flatten where axes go.

    Runtimes have integer kernels for the pools, not for the reductions, and only where the pool's own output is quantized;
    so a pair of the same grid as the one behind the Flatten goes before it: quantizing twice on one grid changes nothing.
    """
    index, shapes = Index(model), _shapes(model)
    for node in list(model.graph.node):
        if node.op_type not in ("ReduceMean", "ReduceMax") or len(node.input) < 2:
            continue
        shape, axes = shapes.get(node.input[0], ()), index.array(node.input[1])
        if len(shape) != 4 or not all(shape[2:]) or axes is None:
            continue
        if sorted(int(axis) % 4 for axis in axes.reshape(-1)) != [2, 3]:
            continue
        keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        result = node.output[0]
        names = [result] if keep else [f"{result}_pooled"]
        if node.op_type == "ReduceMean":
            new = [helper.make_node("GlobalAveragePool", [node.input[0]], names)]
        else:
            new = [helper.make_node("MaxPool", [node.input[0]], names, kernel_shape=shape[2:])]
        if not keep:
            quantizer = index.only_reader(result)
            if quantizer is not None and quantizer.op_type == "QuantizeLinear":
                for kind in ("QuantizeLinear", "DequantizeLinear"):
                    names.append(f"{names[0]}_{kind}")
                    new.append(helper.make_node(kind, [names[-2], *quantizer.input[1:]], [names[-1]]))
            new.append(helper.make_node("Flatten", [names[-1]], [result], axis=1))
        position = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for offset, each in enumerate(new):
            model.graph.node.insert(position + offset, each)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, with 0 for a dimension that is not fixed."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type for v in [*inferred.input, *inferred.value_info, *inferred.output]}
    return {name: tuple(d.dim_value for d in t.shape.dim) for name, t in types.items() if t.HasField("shape")}
