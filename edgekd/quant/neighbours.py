"""Which weighted layers come next before and behind each node of a graph, whatever lies between."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch.fx import Node

__all__ = ["first_and_last", "nearest_layers"]

Layers = dict[Node, set[Node]]


def nearest_layers(nodes: Iterable[Node], weighted: Collection[Any]) -> tuple[Layers, Layers]:
    """For each node, the layers next before it and next behind it; of a layer too, not itself. `weighted`: their operators."""
    order = list(nodes)
    before: Layers = {}
    behind: Layers = {}

    def met(node: Node, found: Layers) -> set[Node]:
        return {node} if node.target in weighted else found[node]

    for node in order:
        before[node] = {layer for one in node.all_input_nodes for layer in met(one, before)}
    for node in reversed(order):
        behind[node] = {layer for one in node.users for layer in met(one, behind)}
    return before, behind


def first_and_last(nodes: Iterable[Node], weighted: Collection[Any]) -> set[Node]:
    """The layers that no other comes before, and those that none comes after."""
    order = list(nodes)
    before, behind = nearest_layers(order, weighted)
    return {node for node in order if node.target in weighted and not (before[node] and behind[node])}
