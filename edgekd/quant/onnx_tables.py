"""Embedding tables of ONNX files as int8: a Gather reads integers, and their row's scale is looked up beside them. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgekd.quant.rewrite import read_within

__all__ = ["LEAST", "integer_tables", "rounded"]

LEAST = 2**14
"""Numbers of a table that is worth three more operators: what saves less than 48 kB stays in float."""

Array = NDArray[Any]


def rounded(table: Array) -> tuple[Array, Array] | None:
    """(q int8 [rows, width], s float32 [rows, 1]) with table ≈ q · s: each row's largest magnitude is 127 steps.

    None of what is no table of `LEAST` finite float32 numbers or more.
    """
    if table.dtype != np.float32 or table.ndim != 2 or table.size < LEAST or not np.isfinite(table).all():
        return None
    scales = np.maximum(np.abs(table).max(1, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    return np.rint(table / scales).astype(np.int8), scales


def integer_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with Gather(q, i) · Gather(s, i) for Gather(t, i) of each such table; not where something else reads its floats, too."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    kept = {value.name for value in graph.output} | set(read_within(graph))
    kept |= {name for node in graph.node if not _looks_up(node) for name in node.input}
    found = {}
    for tensor in graph.initializer:
        if tensor.name not in kept and (pair := rounded(numpy_helper.to_array(tensor))) is not None:
            found[tensor.name] = pair
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if not _looks_up(node) or node.input[0] not in found:
            nodes.append(node)
            continue
        (table, index), out = node.input, node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{table}_integers", index], [f"{out}_integers"], f"{out}_integers"),
            helper.make_node("Gather", [f"{table}_scales", index], [f"{out}_scales"], f"{out}_scales"),
            helper.make_node("Cast", [f"{out}_integers"], [f"{out}_steps"], f"{out}_steps", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{out}_steps", f"{out}_scales"], [out], node.name),
        ]
    read = {name for node in nodes for name in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name not in found]
    for name, pair in found.items():
        ends = zip(("integers", "scales"), pair, strict=True)
        left += [numpy_helper.from_array(value, f"{name}_{end}") for end, value in ends if f"{name}_{end}" in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(left)
    return made


def _looks_up(node: onnx.NodeProto) -> bool:
    """Whether it takes whole rows."""
    return node.op_type == "Gather" and not node.domain and all(a.i == 0 for a in node.attribute if a.name == "axis")
