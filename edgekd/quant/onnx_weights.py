"""Weights alone in 8 or 4 bits, in groups along what is summed over: linear layers become MatMulNBits. No torch.

ONNX Runtime has kernels for that operator (com.microsoft): they multiply float activations by weights that stay packed in
memory, so that what is bound by memory reads an eighth, or a quarter. Convolutions have none and stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekd.errors import RefusedError

__all__ = ["GROUPS", "grouped", "only_weights", "unpacked"]

GROUPS = (16, 32, 64, 128, 256)
"""Weights that share a scale and a zero point: what the operator takes."""
DOMAIN = "com.microsoft"

Array = NDArray[Any]


def grouped(weight: Array, bits: int, group: int) -> tuple[Array, Array, Array]:
    """(packed u8 [N, groups, group · bits / 8], scales [N, groups], packed zero points u8) of a weight [N, K].

    w ≈ scale · (q − zero), q in 0 … 2^bits − 1; each group's range is that of its weights, widened to hold zero. The last
    group of a row is filled with zeros.
    Source: Jacob et al. 2018, arXiv 1712.05877, equation 3, by groups as in Frantar et al. 2022, arXiv 2210.17323, section 4;
    the layout is that of the operator's page in ONNX Runtime's ContribOperators.md.
    """
    rows, columns = weight.shape
    blocks = -(-columns // group)
    filled = np.zeros((rows, blocks * group), np.float32)
    filled[:, :columns] = weight
    held = filled.reshape(rows, blocks, group)
    low, high = np.minimum(held.min(2), 0), np.maximum(held.max(2), 0)
    most = 2**bits - 1
    scales = np.maximum((high - low) / most, np.finfo(np.float32).tiny).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales), 0, most).astype(np.uint8)
    q = np.clip(np.rint(held / scales[..., None]) + zeros[..., None], 0, most).astype(np.uint8)
    return _packed(q, bits), scales, _packed(zeros, bits)


def _packed(values: Array, bits: int) -> Array:
    """[..., n] of u8 as bytes [..., ⌈n · bits / 8⌉]: of two 4-bit values, the first is the low half."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], -1)
    return np.asarray(values[..., ::2] | (values[..., 1::2] << 4))


def unpacked(packed: Array, scales: Array, zeros: Array, bits: int, columns: int) -> Array:
    """The weight [N, columns] that these stand for."""
    rows, blocks = scales.shape
    q, z = (_halves(values, bits).astype(np.float32) for values in (packed, zeros.reshape(rows, -1)))
    found = (q.reshape(rows, blocks, -1) - z[:, :blocks, None]) * scales[..., None]
    return np.asarray(found.reshape(rows, -1)[:, :columns])


def _halves(values: Array, bits: int) -> Array:
    if bits == 8:
        return values
    return np.stack([values & 15, values >> 4], -1).reshape(*values.shape[:-1], -1)


def only_weights(model: onnx.ModelProto, bits: int, group: int) -> onnx.ModelProto:
    """A copy whose linear layers (MatMul, Gemm by a constant of at least a group of rows) have weights of that many bits.

    Raises RefusedError for a model that has none.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in made.graph.node:
        weight = _weight(node, held)
        if weight is None or weight.shape[1] < group:
            nodes.append(node)
            continue
        name, out = node.input[1], node.output[0]
        packed, scales, zeros = grouped(weight, bits, group)
        inputs = [node.input[0]]
        for end, value in (("packed", packed), ("scales", scales), ("zeros", zeros.reshape(-1))):
            inputs.append(f"{name}_{end}_{count}")
            made.graph.initializer.append(numpy_helper.from_array(value, inputs[-1]))
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
        product = f"{out}_product" if bias else out
        attributes = {"K": weight.shape[1], "N": weight.shape[0], "bits": bits, "block_size": group}
        nodes.append(helper.make_node("MatMulNBits", inputs, [product], node.name, domain=DOMAIN, **attributes))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [out]))
        count += 1
    if not count:
        kinds = ", ".join(sorted({node.op_type for node in model.graph.node}))
        message = f"no linear layer has {group} inputs or more and a constant weight ({kinds})"
        raise RefusedError(message, hint="a smaller group; or quantize activations too: leave weight_only out")
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    read = {name for node in made.graph.node for name in node.input} | {value.name for value in made.graph.output}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in read]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    if all(entry.domain != DOMAIN for entry in made.opset_import):
        made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return made


def _weight(node: onnx.NodeProto, held: dict[str, onnx.TensorProto]) -> Array | None:
    """The constant float weight [N, K] of a linear layer; None of anything else."""
    if node.domain or node.op_type not in ("MatMul", "Gemm") or node.input[1] not in held:
        return None
    tensor = held[node.input[1]]
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("transA") or {attributes.get(name, 1.0) for name in ("alpha", "beta")} != {1.0}:
        return None
    value = numpy_helper.to_array(tensor)
    return value if attributes.get("transB") else np.ascontiguousarray(value.T)
