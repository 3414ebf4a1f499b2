"""Embedding tables of ONNX files as int8: a Gather reads integers, and their row's scale is looked up beside them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgekd.quant.rewrite import Index

__all__ = ["LEAST", "integer_tables", "integers_of", "lookups", "worth_rows"]

LEAST = 3 * 2**14
"""Bytes that a table of integers must save, to be worth three more operators."""

Array = NDArray[Any]


def worth_rows(shape: Sequence[int]) -> bool:
    """Whether of a float32 tensor of this shape, if it is a table [rows, width], integers and scales save `LEAST` bytes or more."""
    return len(shape) == 2 and shape[0] * (4 * shape[1] - (shape[1] + 4)) >= LEAST


def integers_of(table: Array) -> tuple[Array, Array]:
    """(q int8 [rows, width], s float32 [rows, 1]) with table ≈ q · s: each row's largest magnitude is 127 steps."""
    scales = np.maximum(np.abs(table).max(1, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    return np.rint(table / scales).astype(np.int8), scales


def lookups(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that look up in a float constant, by rows or otherwise, whatever integers would save."""
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [
        node for node in model.graph.node if node.op_type == "Gather" and not node.domain and node.input[0] in floats
    ]


def integer_tables(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with Gather(q, i) · Gather(s, i) for Gather(t, i) of each such table; not where something else reads its floats, too."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    index, tables, new = Index(made), dict[str, list[onnx.NodeProto]](), dict[str, list[onnx.NodeProto]]()
    for node in lookups(made):
        tables.setdefault(node.input[0], []).append(node)
    for table, nodes in list(tables.items()):
        values = index.array(table)
        columns = any(a.i for node in nodes for a in node.attribute if a.name == "axis")
        read = columns or table in index.outside or len(index.readers[table]) > len(nodes)
        if read or values is None or not worth_rows(values.shape) or not np.isfinite(values).all():
            del tables[table]
            continue
        integers, scales = (
            index.add(f"{table}_{end}", value)
            for end, value in zip(("integers", "scales"), integers_of(values), strict=True)
        )
        for node in nodes:
            rows, out = node.input[1], node.output[0]
            q, s, steps = (index.free(f"{out}_{end}") for end in ("integers", "scales", "steps"))
            new[out] = [
                helper.make_node("Gather", [integers, rows], [q], q),
                helper.make_node("Gather", [scales, rows], [s], s),
                helper.make_node("Cast", [q], [steps], steps, to=TensorProto.FLOAT),
                helper.make_node("Mul", [steps, s], [out], node.name),
            ]
    nodes = [one for node in made.graph.node for one in new.get(node.output[0], [node])]
    made.ir_version = max(made.ir_version, 4)  # before, each constant had to be an input, too
    for held in (made.graph.initializer, made.graph.input):
        left = [one for one in held if one.name not in tables]
        del held[:]
        held.extend(left)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made
