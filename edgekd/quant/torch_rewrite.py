"""Rewrites of the torch graph that keep every value, so that a delegate takes whole what it has kernels for.

Each is a function of a graph from `torch_graph.read_graph`, changed in place; `rewrite` runs them in the order shown.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

__all__ = ["REWRITES", "pair_weights", "rewrite"]

aten, quantized = torch.ops.aten, torch.ops.quantized_decomposed
QUANTIZE = quantized.quantize_per_tensor.default
DEQUANTIZE = quantized.dequantize_per_tensor.default
QUANTIZE_WEIGHT = quantized.quantize_per_channel.default
DEQUANTIZE_WEIGHT = quantized.dequantize_per_channel.default
FUSED = (aten.relu.default, aten.hardtanh.default)


def drop_dropout(graph: fx.GraphModule) -> None:
    """Dropout that does not train is what it is given."""
    for node in _of(graph, aten.dropout.default):
        if not node.args[2]:
            _replace(graph, node, node.args[0])


def merge_pairs(graph: fx.GraphModule) -> None:
    """Quantizing what was just dequantized on the same grid gives the same integers."""
    for node in _of(graph, QUANTIZE):
        source = node.args[0]
        if source.target is DEQUANTIZE and source.args[1:] == node.args[1:]:
            _replace(graph, node, source.args[0])


def reductions_to_pools(graph: fx.GraphModule) -> None:
    """A mean or maximum over both spatial axes keeps them, or becomes a pool over the whole image; then a flatten.

    Delegates have kernels for these forms only. Where the result is quantized, a pair of the same grid goes before the
    flatten, so that the reduction itself computes on integers: quantizing twice on one grid changes nothing.
    """
    for node in [*_of(graph, aten.mean.dim), *_of(graph, aten.amax.default)]:
        shape = _shape(node.args[0])
        keeps = len(node.args) > 2 and node.args[2]
        if len(shape) != 4 or node.kwargs or sorted(axis % 4 for axis in node.args[1]) != [2, 3]:
            continue
        if keeps and node.target is aten.mean.dim:
            continue
        with graph.graph.inserting_before(node):
            if node.target is aten.mean.dim:
                last = graph.graph.call_function(node.target, (node.args[0], [2, 3], True))
            else:
                last = graph.graph.call_function(aten.max_pool2d.default, (node.args[0], list(shape[2:]), [1, 1]))
            if not keeps:
                users = list(node.users)
                if len(users) == 1 and users[0].target is QUANTIZE:
                    last = graph.graph.call_function(QUANTIZE, (last, *users[0].args[1:]))
                    last = graph.graph.call_function(DEQUANTIZE, (last, *users[0].args[1:]))
                last = graph.graph.call_function(aten.flatten.using_ints, (last, 1))
        _replace(graph, node, last)


def fold_float_weights(graph: fx.GraphModule) -> None:
    """The integer weight of a layer whose output stays float becomes the float weight that it stands for.

    No delegate multiplies integers into floats, and one that is given half of the pattern leaves the whole layer out.
    """
    for node in _of(graph, DEQUANTIZE_WEIGHT):
        if any(_is_quantized(user) for user in node.users):
            continue
        arguments = [_constant(graph, a) if isinstance(a, fx.Node) else a for a in node.args]
        name = f"{node.args[0].target}_float"
        graph.register_buffer(name, node.target(*arguments))
        with graph.graph.inserting_before(node):
            _replace(graph, node, graph.graph.get_attr(name))


def pair_weights(graph: fx.GraphModule) -> None:
    """An integer weight becomes the float weight that it stands for, quantized to it in the graph; not of `REWRITES`.

    For compilers that read the pair, not the integers. |w| ≤ 128 and two roundings of 2^-24 give back the same integers.
    """
    for node in _of(graph, DEQUANTIZE_WEIGHT):
        weight, *grid = node.args
        arguments = [_constant(graph, a) if isinstance(a, fx.Node) else a for a in node.args]
        name = f"{weight.target}_float"
        graph.register_buffer(name, node.target(*arguments))
        with graph.graph.inserting_before(node):
            integers = graph.graph.call_function(QUANTIZE_WEIGHT, (graph.graph.get_attr(name), *grid))
        node.args = (integers, *grid)
    graph.graph.eliminate_dead_code()
    graph.recompile()


#: In the order that they run.
REWRITES = (drop_dropout, reductions_to_pools, merge_pairs, fold_float_weights)


def rewrite(graph: fx.GraphModule, example: tuple[torch.Tensor, ...]) -> fx.GraphModule:
    """Run them all on a graph whose inputs are shaped like `example`; the same graph, changed."""
    with torch.no_grad():
        ShapeProp(graph).propagate(*example)
        for each in REWRITES:
            each(graph)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _of(graph: fx.GraphModule, target: Any) -> list[Any]:
    return [node for node in graph.graph.nodes if node.target is target]


def _replace(graph: fx.GraphModule, node: fx.Node, by: Any) -> None:
    node.replace_all_uses_with(by)
    graph.graph.erase_node(node)


def _shape(node: Any) -> tuple[int, ...]:
    found = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return tuple(found.shape) if found is not None else ()


def _is_quantized(layer: fx.Node) -> bool:
    """Whether the layer's one output, behind an activation that a kernel fuses, is quantized."""
    end = layer
    while len(end.users) == 1:
        user = next(iter(end.users))
        if user.target is QUANTIZE:
            return True
        if user.target not in FUSED or end is not layer:
            return False
        end = user
    return False


def _constant(graph: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    value = getattr(graph, str(node.target))
    assert isinstance(value, torch.Tensor)
    return value
