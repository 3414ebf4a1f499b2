"""The parts of a prepared graph that are reconstructed one by one: layers, and the residual units that hold them.

A block begins and ends where a single tensor carries everything: whatever comes later depends on the input through it alone.
Between two such places lie both branches of a residual addition, or one layer of a plain chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Graph, GraphModule, Node

from edgekd.errors import UserError
from edgekd.quant.adapter import ActivationGrid, PerChannelWeight
from edgekd.quant.quantizer import KINDS, WEIGHTED, layer_name
from edgekd.quant.step import PerChannelStep

__all__ = ["Part", "blocks", "extract", "layers", "weight_step"]

FUSED = (*KINDS["relu"], *KINDS["clamp"])
BATCH_SIZE = torch.ops.aten.sym_size.int


@dataclass(frozen=True)
class Part:
    """What lies between the tensor `start`, before it is quantized, and the tensor `end`, before it is quantized.

    `weighted`: its layers, in order.
    """

    start: Node
    end: Node
    weighted: tuple[Node, ...]

    @property
    def name(self) -> str:
        """Of its first layer, and its last if there are more: "top.0.first.0 … top.0.second.0"."""
        names = [layer_name(layer) for layer in self.weighted]
        return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


def blocks(graph: GraphModule) -> list[Part]:
    """The blocks of a prepared graph, in order, each with one quantized layer or more; the last ends with the network.

    Source: Li et al. 2021, arXiv 2102.05426, section 3.2: a block holds one residual connection.
    """
    order = list(graph.graph.nodes)
    position = {node: index for index, node in enumerate(order)}
    last = {node: max((position[user] for user in node.users), default=-1) for node in order}
    output = next(node for node in order if node.op == "output")
    constant = _constants(order)
    found: list[Part] = []
    start, layers_since = next(node for node in order if node.op == "placeholder"), list[Node]()
    alive: set[Node] = set()
    for index, node in enumerate(order):
        alive = {one for one in alive if last[one] > index}
        if node is output or node in constant or not _is_tensor(node):
            continue
        alive.add(node)
        if node.target in WEIGHTED and weight_step(graph, node) is not None:
            layers_since.append(node)
        ends = output in node.users
        if alive != {node} or not (ends or _all_quantize(graph, node)):
            continue
        if layers_since:
            found.append(Part(start, node, tuple(layers_since)))
            start, layers_since = node, []
        elif ends and found:
            found[-1] = Part(found[-1].start, node, found[-1].weighted)
    if layers_since or not found:
        raise UserError(
            "the student has no blocks to reconstruct: its last layers do not end in one output",
            hint='reconstruction = "adaround" works layer by layer, but needs one output too; or leave it out',
        )
    return found


def layers(graph: GraphModule, block: Part) -> list[Part]:
    """Each layer of a block by itself: from what it reads to behind its fused activation."""
    found = []
    for layer in block.weighted:
        start = layer.args[0]
        assert isinstance(start, Node)
        while _is_grid(graph, start) and isinstance(start.args[0], Node):
            start = start.args[0]
        end = layer
        if len(layer.users) == 1 and (user := next(iter(layer.users))).target in FUSED:
            end = user
        found.append(Part(start, end, (layer,)))
    return found


def extract(graph: GraphModule, start: Node, ends: Sequence[Node]) -> GraphModule:
    """The part of a prepared graph that computes `ends` from `start`, on the same parameters and adapters.

    It takes one tensor and gives a tuple with one for each of `ends`. Raises UserError where more than `start` is needed.
    """
    part, copies = Graph(), dict[Node, Node]()
    copies[start] = part.placeholder("x")
    needed, waiting = {start}, list(ends)
    while waiting:
        node = waiting.pop()
        if node in needed:
            continue
        needed.add(node)
        if node.op == "placeholder":
            raise UserError(
                f'a block needs more than one tensor: "{node}"', hint="reconstruction takes plain feed-forward nets"
            )
        waiting += [] if node.target is BATCH_SIZE else node.all_input_nodes
    for node in graph.graph.nodes:
        if node in needed and node is not start:
            if node.target is BATCH_SIZE and node.args[1] == 0:
                copies[node] = part.call_function(BATCH_SIZE, (copies[start], 0))
            else:
                copies[node] = part.node_copy(node, lambda one: copies[one])
    part.output(tuple(copies[end] for end in ends))
    return GraphModule(graph, part)


def weight_step(graph: GraphModule, layer: Node) -> PerChannelStep | PerChannelWeight | None:
    """The grid of a layer's weight; None where it is not quantized."""
    source = layer.args[1]
    if not isinstance(source, Node) or source.op != "call_module":
        return None
    found = graph.get_submodule(str(source.target))
    return found if isinstance(found, PerChannelStep | PerChannelWeight) else None


def _constants(order: Sequence[Node]) -> set[Node]:
    """Nodes that do not depend on the input: parameters, and their adapters."""
    found: set[Node] = set()
    for node in order:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (node.op != "placeholder" and inputs and all(one in found for one in inputs)):
            found.add(node)
    return found


def _is_tensor(node: Node) -> bool:
    """Adapters have no example value: what they give is what they take."""
    return node.op == "call_module" or isinstance(node.meta.get("val"), torch.Tensor)


def _is_grid(graph: GraphModule, node: Node) -> bool:
    return node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), ActivationGrid)


def _all_quantize(graph: GraphModule, node: Node) -> bool:
    """Whether everything that reads the node's value reads it quantized."""
    return (
        bool(node.users)
        and not _is_grid(graph, node)
        and all(_is_grid(graph, user) or user.target is BATCH_SIZE for user in node.users)
    )
