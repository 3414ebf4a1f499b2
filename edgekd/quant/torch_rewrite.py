"""Rewrites of the torch graph that keep every value, so that a delegate takes whole what it has kernels for.

Each is a function of a graph from `torch_graph.read_graph`, changed in place; `rewrite` runs most of them in the order shown.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx
from torch.fx.passes.shape_prop import ShapeProp

__all__ = [
    "REWRITES",
    "float_weight",
    "fold_float_weights",
    "is_product",
    "pair_constants",
    "products",
    "rewrite",
    "round_inputs",
]

aten, quantized = torch.ops.aten, torch.ops.quantized_decomposed
QUANTIZE = quantized.quantize_per_tensor.default
DEQUANTIZE = quantized.dequantize_per_tensor.default
CHOOSE = quantized.choose_qparams.tensor
QUANTIZE_ANEW = quantized.quantize_per_tensor.tensor
DEQUANTIZE_ANEW = quantized.dequantize_per_tensor.tensor
QUANTIZE_WEIGHT = quantized.quantize_per_channel.default
DEQUANTIZE_WEIGHT = quantized.dequantize_per_channel.default
FUSED = (aten.relu.default, aten.hardtanh.default)
MOVING = (
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
)
EPS = torch.finfo(torch.float32).eps
LARGE = 2**14
"""Weights of a layer from which on its inputs are rounded at each call, for a quarter of the bytes to read: chosen between the logits
of ten classes and a transformer's layers; where it costs time, a placement without it may be found."""


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


def fold_float_weights(graph: fx.GraphModule, but: Collection[fx.Node] = ()) -> None:
    """The integer weight of a layer whose output stays float, none of `but`, becomes the float weight that it stands for.

    A delegate that is given half of the pattern of an integer kernel leaves the whole layer out.
    """
    for node in _of(graph, DEQUANTIZE_WEIGHT):
        if any(user in but or _is_quantized(user) for user in node.users):
            continue
        _replace(graph, node, float_weight(graph, node))


def is_product(graph: fx.GraphModule, node: Any) -> bool:
    """Whether a node is a linear layer of many integer weights, symmetric, whose output stays float."""
    if node.target is not aten.linear.default or node.args[1].target is not DEQUANTIZE_WEIGHT or _is_quantized(node):
        return False
    weight, _, zeros = (_constant(graph, one) for one in node.args[1].args[:3])
    return weight.numel() >= LARGE and not zeros.any()


def products(graph: fx.GraphModule) -> list[fx.Node]:
    """Such layers, which read from now on what no pair rounded, where no integer kernel made it."""
    found = [node for node in graph.graph.nodes if is_product(graph, node)]
    for node in found:
        with graph.graph.inserting_before(node):
            node.args = (_unrounded(graph, node.args[0]), *node.args[1:])
    return found


def round_inputs(graph: fx.GraphModule) -> None:
    """The inputs of such layers are rounded at each call, to 8 bits over their own range; not of `REWRITES`.

    For delegates that multiply integers into floats only so. What an integer kernel made is rounded once more.
    """
    for node in products(graph):
        source = node.args[0]
        with graph.graph.inserting_before(node):
            chosen = graph.graph.call_function(CHOOSE, (source, -128, 127, EPS, torch.int8))
            grid = [graph.graph.call_function(operator.getitem, (chosen, index)) for index in (0, 1)]
            for target in (QUANTIZE_ANEW, DEQUANTIZE_ANEW):
                source = graph.graph.call_function(target, (source, *grid, -128, 127, torch.int8))
        node.args = (source, *node.args[1:])
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _unrounded(graph: fx.GraphModule, node: Any) -> Any:
    """What a pair rounds, moved as it was since, where no integer kernel made that; else the node itself."""
    pair = node.target is DEQUANTIZE and isinstance(node.args[0], fx.Node) and node.args[0].target is QUANTIZE
    if not pair:
        return node
    made = node.args[0].args[0]
    root = made.args[0] if made.target in FUSED else made
    if root.target in MOVING:
        first = _unrounded(graph, root.args[0])
        if first is root.args[0]:
            return node if first.target is DEQUANTIZE else made
        return graph.graph.call_function(root.target, (first, *root.args[1:]), root.kwargs)
    return node if any(one.target in (DEQUANTIZE, DEQUANTIZE_WEIGHT) for one in root.all_input_nodes) else made


def pair_constants(graph: fx.GraphModule) -> None:
    """An integer weight, or a constant that is added, becomes the floats it stands for, quantized in the graph; not of `REWRITES`.

    For compilers that read the pair, not the integers. |q − z| ≤ 255 and two roundings of 2^-24 give back the same integers.
    """
    for node in [*_of(graph, DEQUANTIZE_WEIGHT), *_of(graph, DEQUANTIZE)]:
        if node.args[0].op != "get_attr":
            continue
        value, grid = float_weight(graph, node), node.args[1:]
        with graph.graph.inserting_before(node):
            integers = graph.graph.call_function(
                QUANTIZE_WEIGHT if node.target is DEQUANTIZE_WEIGHT else QUANTIZE, (value, *grid)
            )
        node.args = (integers, *grid)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def float_weight(graph: fx.GraphModule, node: Any) -> fx.Node:
    """A constant of the values that the dequantized weight `node` has, before it in the graph."""
    arguments = [_constant(graph, a) if isinstance(a, fx.Node) else a for a in node.args]
    name = f"{node.args[0].target}_float"
    graph.register_buffer(name, node.target(*arguments))
    with graph.graph.inserting_before(node):
        return graph.graph.get_attr(name)


#: In the order that they run.
REWRITES = (drop_dropout, reductions_to_pools, merge_pairs)


def rewrite(graph: fx.GraphModule, example: tuple[torch.Tensor, ...], whole: bool = True) -> fx.GraphModule:
    """Run them all, and fold weights, on a graph whose inputs are shaped like `example`; the same graph, changed.

    Unless `whole`, large layers whose output stays float keep their integers: the `products`.
    """
    with torch.no_grad():
        ShapeProp(graph).propagate(*example)
        for each in REWRITES:
            each(graph)
        fold_float_weights(graph, [node for node in graph.graph.nodes if not whole and is_product(graph, node)])
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
