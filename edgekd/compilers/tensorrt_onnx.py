"""A program's model as the ONNX parsers of TensorRT and of TensorRT for RTX take it, and what they refuse. No runtime.

Their integers are symmetric: s8, zero points of 0, biases that stay floats. The program's own scales and s8 weights go in.

Source: NVIDIA TensorRT developer guide, "Working with Quantized Types"; the refusals were seen of tensorrt-rtx 1.7.1's parser.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.backend import Signature, read_json
from edgekd.refusals import fixed_shapes, refused_grid, refused_precision

if TYPE_CHECKING:
    import onnx

    from edgekd.quant.rewrite import Index

__all__ = [
    "halved",
    "prepared",
    "refused",
    "refused_pairs",
    "weighted_nodes",
    "with_dequantized_tables",
    "with_float_biases",
]

GRIDS = ("symmetric",)
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def refused(program: Path, target: Mapping[str, Any]) -> list[str]:
    """What the program's folder tells: a line each for its precision, its grid and its dynamic shapes."""
    return [*refused_precision(program, target), *refused_grid(program, GRIDS), *fixed_shapes(program)]


def halved(program: Path, target: Mapping[str, Any]) -> bool:
    """Whether a program is compiled in half floats: a float32 one, for a target that lists float16."""
    return read_json(program / "program.json")["precision"] == "float32" and "float16" in (
        target.get("precisions") or ()
    )


def prepared(program: Path, target: Mapping[str, Any]) -> onnx.ModelProto:
    """The program's model as the parser takes it: a float one slimmed, and in half floats if asked, an int8 one with float biases.

    Ports stay as they are.
    """
    import onnx

    model = onnx.load(program / "model.onnx")
    if read_json(program / "program.json")["precision"] == "int8":
        return with_dequantized_tables(with_float_biases(model))
    from edgekd.onnx.slim import slimmed

    model = slimmed(model, Signature.read(program).feed(0))
    if not halved(program, target):
        return model
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return made


def with_float_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, in place, with each dequantized constant of int32 as the floats that it stands for: q · s."""
    import onnx
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        whole = held.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if whole is None or whole.data_type != onnx.TensorProto.INT32 or len(whole.dims) > 1:
            continue
        values = numpy_helper.to_array(whole).astype("float32") * numpy_helper.to_array(held[node.input[1]])
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def with_dequantized_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, in place, with each int8 table that rows are looked up in as floats behind a DequantizeLinear of scale 1.

    "Quantized constant is only allowed before DQ", say their builders of q in Gather(q, i), whatever its scales are; the Cast to
    float that follows then has nothing to do.
    """
    import numpy as np
    import onnx
    from onnx import helper

    from edgekd.quant.rewrite import Index

    index, floats = Index(model), dict[str, str]()
    for node in list(model.graph.node):
        held = index.constants.get(node.input[0]) if node.op_type == "Gather" else None
        if held is None or held.data_type != onnx.TensorProto.INT8 or not _only_cast(index, node.output[0]):
            continue
        if held.name not in floats:
            one = index.add(f"{held.name}_step", np.ones((), np.float32))
            floats[held.name] = index.free(f"{held.name}_floats")
            made = helper.make_node("DequantizeLinear", [held.name, one], [floats[held.name]], floats[held.name])
            model.graph.node.insert(0, made)
        node.input[0] = floats[held.name]
        for value in [value for value in model.graph.value_info if value.name == node.output[0]]:
            model.graph.value_info.remove(value)
    return model


def _only_cast(index: Index, name: str) -> bool:
    """Whether a tensor is read as floats alone."""
    import onnx

    casts = [
        node.op_type == "Cast" and any(a.name == "to" and a.i == onnx.TensorProto.FLOAT for a in node.attribute)
        for node in index.readers[name]
    ]
    return name not in index.outside and all(casts)


def refused_pairs(model: onnx.ModelProto) -> list[str]:
    """A line for each QuantizeLinear or DequantizeLinear whose integers are not symmetric s8."""
    import onnx
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in model.graph.initializer}
    lines = []
    for index, node in enumerate(model.graph.node):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = held.get(node.input[2]) if len(node.input) > 2 else None
        whole = held.get(node.input[0]) or zero
        kind = whole.data_type if whole else onnx.TensorProto.UINT8 if node.op_type == "QuantizeLinear" else None
        name = f"node {node.name or index} ({node.op_type})"
        if kind not in (None, onnx.TensorProto.INT8):
            named = onnx.TensorProto.DataType.Name(kind).lower()
            lines.append(f"{name}: its integers are {named}; TensorRT takes int8, and biases as floats")
        elif zero is not None and numpy_helper.to_array(zero).any():
            lines.append(f"{name}: its zero point is not 0; TensorRT takes symmetric integers")
    return lines


def weighted_nodes(model: onnx.ModelProto) -> tuple[int, int]:
    """(Nodes with weights of which input and weight are both dequantized, all nodes with weights)."""
    nodes = [node for node in model.graph.node if node.op_type in WEIGHTED]
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return sum(set(node.input[:2]) <= dequantized for node in nodes), len(nodes)
