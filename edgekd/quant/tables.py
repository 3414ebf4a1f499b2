"""Embedding tables as int8: a word's row is its integers times its scale, looked up one by one and never dequantized as a whole.

No runtime multiplies by a table, so this buys bytes, not time: of a small transformer the table of words is most of the file.
`edgekd.quant.onnx_tables` has the numbers, and does the same to ONNX files.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch.fx import GraphModule, Node

from edgekd.quant.onnx_tables import rounded

__all__ = ["round_tables", "with_integer_tables"]

aten = torch.ops.aten


def round_tables(graph: GraphModule) -> None:
    """Make the embedding tables of a float or fake-quantized graph, in place, what their integers will stand for."""
    for nodes, (q, scales) in _tables(graph):
        attrgetter(_name(nodes[0]))(graph).detach().copy_(q * scales)


def with_integer_tables(graph: GraphModule) -> None:
    """Put integers into the embedding tables of a graph, in place: embedding(t, i) becomes embedding(q, i) · embedding(s, i)."""
    for nodes, pair in _tables(graph):
        names = (f"{nodes[0].name}_integers", f"{nodes[0].name}_scales")
        for name, value in zip(names, pair, strict=True):
            graph.register_buffer(name, value)
        for node in nodes:
            with graph.graph.inserting_before(node):
                steps, scales = (
                    graph.graph.call_function(aten.embedding.default, (graph.graph.get_attr(name), *node.args[1:]))
                    for name in names
                )
                floats = graph.graph.call_function(aten._to_copy.default, (steps,), {"dtype": torch.float32})
                product = graph.graph.call_function(aten.mul.Tensor, (floats, scales))
            node.replace_all_uses_with(product)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _tables(graph: GraphModule) -> list[tuple[list[Node], tuple[torch.Tensor, torch.Tensor]]]:
    """The operators that look rows up in a constant table worth it, by table, with its integers and scales.

    Not one that something else reads as it is, as a tied layer in float does: then the floats would be kept beside the integers.
    A tied layer that is quantized has integers of its own, by an adapter (a module of the graph) as long as it is only prepared.
    """
    readers: dict[object, dict[Node, None]] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(node.target, {}).update(node.users)
    found = []
    for target, users in readers.items():
        nodes = [node for node in users if node.target is aten.embedding.default and _name(node) == target]
        if not nodes or any(user.op != "call_module" for user in users if user not in nodes):
            continue
        if (pair := rounded(attrgetter(str(target))(graph).detach().numpy())) is not None:
            found.append((nodes, (torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))))
    return found


def _name(node: Node) -> str:
    """Of the table that an operator looks rows up in."""
    return str(getattr(node.args[0], "target", ""))
