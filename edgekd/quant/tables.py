"""Embedding tables as int8: a word's row is its integers times its scale, looked up one by one and never dequantized as a whole.

    round_rows(graph)            embedding(t, i) → Rows(embedding(t, i))                         fake-quantized, trains
    with_integer_tables(graph)   Rows(embedding(t, i)) → embedding(q, i) · embedding(s, i)       the program

A row has a scale of its own, so rounding it behind the look-up gives what rounding the table would, and costs only the rows that
are read. No runtime multiplies by a table: this buys bytes, not time; of a small transformer the table of words is most of the file.
`edgekd.quant.onnx_tables` has the numbers, and does the same to ONNX files.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.quant.onnx_tables import integers_of, worth_rows

__all__ = ["Rows", "free_name", "round_rows", "with_integer_tables"]

aten = torch.ops.aten


class _Round(torch.autograd.Function):
    """Each row [..., width] on its own 127 steps to either side; one with infinite values as it is.

    The gradient passes unchanged (the straight-through estimator), since nothing is clipped.
    """

    @staticmethod
    def forward(rows: torch.Tensor) -> torch.Tensor:
        scales = (rows.abs().amax(-1, keepdim=True) / 127).clamp_min_(torch.finfo(torch.float32).tiny)
        rounded = torch.div(rows, scales).round_().mul_(scales)
        return torch.where(scales.isfinite(), rounded, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return gradient


class Rows(nn.Module):
    """Stands behind what looks rows up: they become what int8 integers and a scale each stand for. It has no state."""

    def __init__(self) -> None:
        super().__init__()
        self.off = False

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        rounded: torch.Tensor = rows if self.off else _Round.apply(rows)  # type: ignore[no-untyped-call]
        return rounded


def round_rows(graph: GraphModule) -> None:
    """Put `Rows` behind what looks rows up in a constant table worth it, in place.

    Not where something else reads the table as it is, as a tied layer in float does: then the floats would be kept beside the
    integers. A tied layer that is quantized has integers of its own, by an adapter (a module of the graph) as long as it is only
    prepared.
    """
    readers: dict[object, dict[Node, None]] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(node.target, {}).update(node.users)
    for target, users in readers.items():
        nodes = [node for node in users if node.target is aten.embedding.default and _name(node) == target]
        if not nodes or any(user.op != "call_module" for user in users if user not in nodes):
            continue
        table = attrgetter(str(target))(graph).detach()
        if table.dtype != torch.float32 or not worth_rows(table.shape):
            continue
        for node in nodes:
            name = free_name(graph, f"{node.name}_rows")
            graph.add_submodule(name, Rows())
            with graph.graph.inserting_after(node):
                behind = graph.graph.call_module(name, (node,))
            behind.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
            node.replace_all_uses_with(behind)
            behind.args = (node,)  # which read itself for a moment
    graph.recompile()


def with_integer_tables(graph: GraphModule) -> GraphModule:
    """The graph, changed in place, with integers in the tables whose rows `round_rows` has rounded, and without their floats.

    A table with infinite values stays in float; its finite rows are what integers would stand for.
    """
    found: dict[str, list[Node]] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), Rows):
            found.setdefault(_name(node.args[0]), []).append(node)
    for target, nodes in found.items():
        table, names = attrgetter(target)(graph).detach(), []
        if not table.isfinite().all():
            table.copy_(Rows()(table))
            for node in nodes:
                node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]  # it stands behind an operator
            continue
        for end, value in zip(("integers", "scales"), integers_of(table.numpy()), strict=True):
            names.append(free_name(graph, f"{target.replace('.', '_')}_table_{end}"))
            graph.register_buffer(names[-1], torch.from_numpy(value))
        for node in nodes:
            index = node.args[0].args[1]  # type: ignore[union-attr]  # it stands behind an operator
            with graph.graph.inserting_before(node):
                steps, scales = (
                    graph.graph.call_function(aten.embedding.default, (graph.graph.get_attr(name), index))
                    for name in names
                )
                floats = graph.graph.call_function(aten._to_copy.default, (steps,), {"dtype": torch.float32})
                product = graph.graph.call_function(aten.mul.Tensor, (floats, scales))
            node.replace_all_uses_with(product)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    made = GraphModule(graph, graph.graph)
    made.eval()
    return made


def _name(node: Any) -> str:
    """Of the table that an operator looks rows up in."""
    return str(getattr(node.args[0], "target", ""))


def free_name(graph: GraphModule, name: str) -> str:
    """The name, made unique in the graph."""
    while hasattr(graph, name):
        name += "_"
    return name
