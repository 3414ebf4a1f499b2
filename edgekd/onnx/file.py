"""An ONNX file as it comes: read whole, its inputs and outputs named, its batch fixed to one. No torch.

Weights may lie beside it or in Constant nodes; either way they are initializers afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edgekd.backend import write_json
from edgekd.errors import UserError

FILE = "model.onnx"

QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
QUANTIZED_PREFIXES = ("QLinear", "QGemm", "QAttention", "MatMulNBits", "DynamicQuantize")
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"})
"""Operators that the quantizer writes pairs around."""
PASSING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose output holds the values of their first input."""


def load(path: Path) -> onnx.ModelProto:
    """The model with all its weights inside it, as initializers.

    Raises UserError for a file that is cut short, whose weights are not beside it, or of an opset that is too new.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no graph")
    except Exception as error:  # protobuf's, onnx's and the system's kinds share no base class
        hint = "export it again, or copy it again"
        raise UserError(f"{path} is not a whole ONNX file: {_said(error)}", hint=hint) from None
    known = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > known:
            message = f"{path} is of opset {entry.version}; the onnx installed here knows up to {known}"
            raise UserError(message, hint="export it with opset_version=20, or install a newer onnx")
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # as above
        hint = "copy the weights' file beside it, under the name that it had, or export with the weights inside"
        raise UserError(f"{path}: its weights beside it cannot be read: {_said(error)}", hint=hint) from None
    return constants_to_initializers(model)


def constants_to_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constant nodes of the graph become initializers, in place: where quantizers and runtimes look for weights."""
    kept = []
    for node in model.graph.node:
        value = _constant(node) if node.op_type == "Constant" and not node.domain else None
        if value is None:
            kept.append(node)
        else:
            value.name = node.output[0]
            model.graph.initializer.append(value)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _constant(node: onnx.NodeProto) -> TensorProto | None:
    """What a Constant node holds, as a tensor; None for strings and sparse tensors."""
    (attribute,) = node.attribute
    if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
        return attribute.t  # type: ignore[no-any-return]  # onnx leaves it untyped
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name not in dtypes:
        return None
    return numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), dtypes[attribute.name]))


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The graph's inputs, without those that only give an initializer a name."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def fix_batch(model: onnx.ModelProto) -> None:
    """Where the first dimension is free it becomes one, in place, and so does every dimension of that name."""
    ports = [*inputs(model), *model.graph.output]
    batches = set()
    for value in ports:
        first = value.type.tensor_type.shape.dim[:1]
        if first and not first[0].dim_value:
            batches.add(first[0].dim_param)
            first[0].dim_value = 1
    for value in ports:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in batches:
                dim.dim_value = 1
    del model.graph.value_info[:]


def signature(model: onnx.ModelProto, where: str) -> dict[str, Any]:
    """`signature.json` of the model. Raises UserError for an input or output that is no tensor of numbers."""
    sides = {"inputs": inputs(model), "outputs": list(model.graph.output)}
    if not sides["inputs"]:
        raise UserError(f"{where} has no inputs", hint="a model that takes nothing computes a constant")
    found = {side: [_port(value, where) for value in values] for side, values in sides.items()}
    return {**found, "preprocessing": {}, "labels": []}


def _port(value: onnx.ValueInfoProto, where: str) -> dict[str, Any]:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or value.type.tensor_type.elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        what = "strings" if kind == "tensor_type" else f"a {kind}".replace("_type", "")
        raise UserError(f'{where}: "{value.name}" is {what}', hint="inputs and outputs are tensors of numbers")
    tensor = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = [d.dim_value or d.dim_param or f"free_{i}" for i, d in enumerate(tensor.shape.dim)]
    return {"name": value.name, "shape": shape, "dtype": dtype}


def quantized(model: onnx.ModelProto) -> bool:
    """Whether some node computes in integers or says where to: the file was quantized already."""
    return any(node.op_type in QUANTIZED or node.op_type.startswith(QUANTIZED_PREFIXES) for node in model.graph.node)


def quantizable(model: onnx.ModelProto) -> bool:
    """Whether a node has weights that integers could hold; those inside an If or a Loop are out of a quantizer's reach."""
    return not quantized(model) and any(node.op_type in WEIGHTED for node in model.graph.node)


def looked_at(path: Path, asked: Callable[[onnx.ModelProto], bool]) -> bool | None:
    """What `quantized` or `quantizable` says of a file, its weights unread; None of one that cannot be read.

    Why it cannot is said by the step that loads it.
    """
    try:
        return asked(onnx.load(path, load_external_data=False))
    except Exception:  # as in `load`
        return None


def index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """For inputs that pick rows of a table (a Gather, as of token embeddings): how many rows the smallest has."""
    rows = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    limits: dict[str, int] = {}
    for port in inputs(model):
        same = {port.name}
        for node in model.graph.node:
            if node.op_type in PASSING and node.input[0] in same:
                same.update(node.output)
            if node.op_type == "Gather" and node.input[1] in same and node.input[0] in rows:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                size = rows[node.input[0]][axis]
                limits[port.name] = min(limits.get(port.name, size), size)
    return limits


def parameters(model: onnx.ModelProto) -> int:
    """Numbers in its weights: floats, and the integers that a DequantizeLinear or an integer kernel reads."""
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8)
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in kinds)


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def write_program(out: Path, model: onnx.ModelProto, about: dict[str, Any], precision: str, grid: str = "") -> None:
    """Write the program that the model is: model.onnx, its signature `about`, its precision and grid."""
    (out / FILE).write_bytes(model.SerializeToString())
    write_json(
        out / "program.json", {"precision": precision, "grid": grid or ("affine" if precision == "int8" else "none")}
    )
    write_json(out / "signature.json", about)
    write_json(out / "graph.json", {"format": 1, "refused": ["it came as an ONNX file: there is no graph for torch"]})
