"""Weights alone in 8 or 4 bits, in groups along what is summed over: linear layers become MatMulNBits. No torch.

ONNX Runtime has kernels for that operator (com.microsoft): they multiply float activations by weights that stay packed in
memory, so that what is bound by memory reads an eighth, or a quarter. Convolutions have none and stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekd.errors import RefusedError
from edgekd.quant.rewrite import read_within

__all__ = ["GROUPS", "Packed", "grouped", "only_weights", "packed_weights", "unpacked"]

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


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight [N, K] as integers, K of them being `columns`: what `grouped` gives, and how many bits each has in groups of what."""

    packed: Array
    scales: Array
    zeros: Array
    bits: int
    group: int
    columns: int

    @classmethod
    def of(cls, weight: Array, bits: int, group: int) -> Packed:
        return cls(*grouped(weight, bits, group), bits, group, weight.shape[1])

    @classmethod
    def from_integers(cls, q: Array, scales: Array, zeros: Array, bits: int, group: int, columns: int) -> Packed:
        """Of q [N, groups · group] and zero points [N, groups], both in 0 … 2^bits − 1."""
        rows, blocks = scales.shape
        held = q.astype(np.uint8).reshape(rows, blocks, group)
        return cls(_packed(held, bits), scales, _packed(zeros.astype(np.uint8), bits), bits, group, columns)

    def integers(self) -> tuple[Array, Array]:
        """(q [N, groups, group], zero points [N, groups]), each u8."""
        rows, blocks = self.scales.shape
        q, zeros = (_halves(held, self.bits) for held in (self.packed, self.zeros.reshape(rows, -1)))
        return q.reshape(rows, blocks, self.group), zeros[:, :blocks]

    def values(self) -> Array:
        """The float32 weight [N, K] that they stand for."""
        return unpacked(self.packed, self.scales, self.zeros, self.bits, self.columns)

    def node(self, graph: onnx.GraphProto, weight: str, count: int, x: str, product: str, name: str) -> onnx.NodeProto:
        """product = x · weightᵀ, the integers being made constants of `graph` under names of their own."""
        inputs = [x]
        for end, value in (("packed", self.packed), ("scales", self.scales), ("zeros", self.zeros.reshape(-1))):
            inputs.append(f"{weight}_{end}_{count}")
            graph.initializer.append(numpy_helper.from_array(value, inputs[-1]))
        sizes = {"K": self.columns, "N": self.scales.shape[0], "bits": self.bits, "block_size": self.group}
        return helper.make_node("MatMulNBits", inputs, [product], name, domain=DOMAIN, **sizes)


def only_weights(model: onnx.ModelProto, bits: int, group: int) -> onnx.ModelProto:
    """A copy whose linear layers (MatMul, Gemm by a constant of at least a group of rows) have weights of that many bits.

    Raises RefusedError for a model that has none.
    """

    def chosen(weight: Array) -> Packed | None:
        return Packed.of(weight, bits, group) if weight.shape[1] >= group else None

    found, count = _replaced(model, chosen)
    if not count:
        kinds = ", ".join(sorted({node.op_type for node in model.graph.node}))
        message = f"no linear layer has {group} inputs or more and a constant weight ({kinds})"
        raise RefusedError(message, hint="a smaller group; or quantize activations too: leave weight_only out")
    return found


def packed_weights(model: onnx.ModelProto, layers: Sequence[Packed]) -> tuple[onnx.ModelProto, int]:
    """A copy whose linear layers that have the values of one of `layers` get its integers, and how many did.

    By value, to the bit: the same integers stand for them, whatever an exporter called the weight and however it turned it.
    """
    known = {_identity(one.values()): one for one in layers}
    return _replaced(model, lambda weight: known.get(_identity(weight)))


def _identity(weight: Array) -> tuple[tuple[int, ...], bytes]:
    return weight.shape, np.ascontiguousarray(weight, np.float32).tobytes()


def _replaced(model: onnx.ModelProto, chosen: Callable[[Array], Packed | None]) -> tuple[onnx.ModelProto, int]:
    """A copy with MatMulNBits for each linear layer whose weight [N, K] `chosen` has integers for, and how many those are."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = {tensor.name: tensor for tensor in made.graph.initializer}
    makers = {node.output[0]: node for node in made.graph.node if node.output}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in made.graph.node:
        weight = _weight(node, held, makers)
        packed = None if weight is None else chosen(weight)
        if packed is None:
            nodes.append(node)
            continue
        out, bias = node.output[0], node.input[2] if len(node.input) > 2 and node.input[2] else ""
        product = f"{out}_product" if bias else out
        nodes.append(packed.node(made.graph, node.input[1], count, node.input[0], product, node.name))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [out]))
        count += 1
    _keep(made.graph, nodes)
    if count and all(entry.domain != DOMAIN for entry in made.opset_import):
        made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return made, count


def _keep(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the nodes of the graph, less transposes of constants that nothing reads now, and the constants of those."""
    outputs = {value.name for value in graph.output} | set(read_within(graph))
    read = {name for node in nodes for name in node.input} | outputs
    left = [node for node in nodes if node.op_type != "Transpose" or node.output[0] in read]
    read = {name for node in left for name in node.input} | outputs
    del graph.node[:]
    graph.node.extend(left)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _weight(
    node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto], makers: Mapping[str, onnx.NodeProto]
) -> Array | None:
    """The constant float weight [N, K] of a linear layer, itself or as a transpose of a constant; None of anything else."""
    if node.domain or node.op_type not in ("MatMul", "Gemm"):
        return None
    name, turned, maker = node.input[1], False, makers.get(node.input[1])
    if maker is not None and maker.op_type == "Transpose" and not maker.domain:
        permuted = next((list(a.ints) for a in maker.attribute if a.name == "perm"), [1, 0])
        name, turned = maker.input[0], permuted == [1, 0]
    if name not in held or held[name].data_type != onnx.TensorProto.FLOAT or len(held[name].dims) != 2:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("transA") or {attributes.get(factor, 1.0) for factor in ("alpha", "beta")} != {1.0}:
        return None
    value = numpy_helper.to_array(held[name])
    return value if bool(attributes.get("transB")) != turned else np.ascontiguousarray(value.T)
