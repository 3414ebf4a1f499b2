"""Modules in a graph of operators, as quantization makes one of a student: which operator gives what a module gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard, final

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node

AGAIN = "@"
"""In what torch.export calls a module's second call, and those after it."""


def traced(network: nn.Module) -> TypeGuard[GraphModule]:
    """Whether it is a graph of operators: its modules are names in the operators' notes, and only parameters are left of them."""
    return isinstance(network, GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in network.graph.nodes
    )


def outputs_of(graph: GraphModule) -> dict[str, Node]:
    """{module: the operator that gives what its first call gave}, in the order in which they finish, inner modules first.

    Each operator says in which modules it was called. What a module gives is the one tensor of its operators that others read.
    A module that gives several, or only what it was given, is left out.
    """
    place = {node: number for number, node in enumerate(graph.graph.nodes)}
    inside: dict[str, list[Node]] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
            if path and AGAIN not in key:
                inside.setdefault(path, []).append(node)
    found = {}
    for path in sorted(inside, key=lambda name: (place[inside[name][-1]], -name.count("."))):
        own = set(inside[path])
        read = [node for node in inside[path] if not _readers(node) <= own]
        giving = [node for node in read if isinstance(node.meta.get("val"), torch.Tensor)]
        if len(giving) == 1:
            found[path] = giving[0]
    return found


@contextmanager
def watched(graph: GraphModule, names: Sequence[str], keep: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """While the block runs, `keep(name, output)` is told what each module called `names` gives, when the graph runs.

    Where the tensor is on a grid, it is the rounded one: what the modules behind it see, and what the integer engine has there.
    Gradients flow through it as they do in the graph.
    """
    wanted: dict[Node, list[str]] = {}
    outputs = outputs_of(graph) if names else {}
    for name in sorted(names, key=list(outputs).index):
        wanted.setdefault(_rounded(outputs[name]), []).append(name)
    if wanted:
        graph.forward = lambda *inputs: _Watching(graph, wanted, keep).run(*inputs)
    try:
        yield
    finally:
        graph.__dict__.pop("forward", None)


@final
class _Watching(Interpreter):
    """Runs a graph operator by operator, which takes longer than its own code by what Python takes between them."""

    def __init__(
        self, graph: GraphModule, wanted: Mapping[Node, Sequence[str]], keep: Callable[[str, torch.Tensor], None]
    ) -> None:
        super().__init__(graph)
        self.wanted, self.keep = wanted, keep
        self.extra_traceback = False

    def run_node(self, n: Node) -> Any:
        output = super().run_node(n)
        for name in self.wanted.get(n, ()):
            self.keep(name, output)
        return output


def _readers(node: Node) -> set[Node]:
    """Who reads a node's value, rounded or not: adapters, the only modules that are called, are seen through."""
    found: set[Node] = set()
    for user in node.users:
        found |= _readers(user) if user.op == "call_module" else {user}
    return found


def _rounded(node: Node) -> Node:
    """The last adapter behind a node, of its grid or before that of a table's rows; where there is none, the node."""
    behind = next((user for user in node.users if user.op == "call_module"), None)
    return node if behind is None else _rounded(behind)
