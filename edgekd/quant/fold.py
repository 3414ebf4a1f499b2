"""Batch norm into the layer before it, and biases onto the grid of the integer accumulator."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.quant.adapter import ActivationGrid, PerChannelWeight
from edgekd.quant.quantizer import BATCH_NORM, WEIGHTED
from edgekd.quant.step import PerChannelStep

__all__ = ["fold_batch_norm", "settle_weights"]

LARGEST_BIAS = 2.0**30  # of an int32 accumulator, so that the products still fit beside it


@torch.no_grad()
def fold_batch_norm(graph: GraphModule) -> None:
    """w ← w · γ/√(σ² + ε), b ← β + (b − μ) · γ/√(σ² + ε), by output channel; the batch norms disappear, in place.

    Where the weight is fake-quantized (QAT), the quantized values are folded. For a scale that is max |w| / 127 of each
    output channel, that keeps every integer: scaling a channel scales its grid. So QAT needs no copy of the batch norm in
    front of the weight, as Krishnamoorthi 2018 (arXiv 1806.08342, section 3.2.2) needs it for grids that are per tensor.
    Steps that are state of their own are scaled with their channels.
    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14.
    """
    for norm in [n for n in graph.graph.nodes if n.op == "call_function" and n.target is BATCH_NORM]:
        layer = norm.args[0]
        if layer.target not in WEIGHTED or len(layer.users) > 1 or layer.meta["val"].ndim not in (2, 4):
            continue
        gamma, beta, mean, variance = (_constant(graph, arg) for arg in norm.args[1:5])
        source = _own_adapter(graph, layer)
        weight = _constant(graph, source)
        if weight is None or mean is None or variance is None:
            continue
        factor = torch.rsqrt(variance.double() + norm.args[7]) * (1.0 if gamma is None else gamma.double())
        bias = _constant(graph, layer.args[2]) if len(layer.args) > 2 else None
        shift = -mean.double() if bias is None else bias.double() - mean.double()
        folded = weight.double() * factor.reshape(-1, *[1] * (weight.ndim - 1))
        moved = shift * factor + (0.0 if beta is None else beta.double())
        origin = _origin(source)
        _own(graph, layer, 1, f"{origin.target}", folded.float(), behind=source if source is not origin else None)
        if isinstance(step := _module(graph, source), PerChannelStep):
            step.rescale(factor)
        _own(graph, layer, 2, f"{str(origin.target).removesuffix('weight')}bias", moved.float())
        norm.replace_all_uses_with(layer)
        graph.graph.erase_node(norm)
    graph.graph.eliminate_dead_code()
    graph.recompile()


@torch.no_grad()
def settle_weights(graph: GraphModule) -> None:
    """Measure every weight's scales, and round each bias to a whole multiple of input scale · weight scale, in place.

    An integer kernel adds the bias to its int32 accumulator, whose unit is that product; rounded here, torch and the kernel
    add the same number. A channel whose weights are tiny beside its bias gets a larger scale, or its bias would not fit.
    Where a width is simulated there is no kernel to agree with, and the bias stays as it is.
    Source: Jacob et al. 2018, arXiv 1712.05877, section 2.4, equation 11.
    """
    for layer in [n for n in graph.graph.nodes if n.op == "call_function" and n.target in WEIGHTED]:
        weight, activation = _module(graph, layer.args[1]), _module(graph, layer.args[0])
        if not isinstance(weight, PerChannelWeight | PerChannelStep):
            continue
        value = _constant(graph, layer.args[1].args[0])
        bias = _constant(graph, layer.args[2]) if len(layer.args) > 2 else None
        if value is None:
            continue
        if not isinstance(activation, ActivationGrid) or activation.grid is None or bias is None:
            weight.measure(value)
            continue
        if (weight.quant_max, activation.quant_max) != (127, 127):
            weight.measure(value)
            continue
        unit = torch.tensor(activation.grid[0])
        floor = bias.abs() / (unit * LARGEST_BIAS)
        weight.floor = floor if weight.floor is None else torch.maximum(weight.floor, floor)
        step = weight.measure(value) * unit
        rounded = torch.round(bias.double() / step.double()).float() * step
        _own(graph, layer, 2, f"{layer.name}_bias", rounded)
    graph.recompile()


def _own_adapter(graph: GraphModule, layer: Node) -> Node:
    """What `layer` reads its weight from; where an adapter that another layer reads too, a copy of its own.

    A layer that is used twice, each time with its own batch norm, becomes two when these are folded: two weights, two scales.
    """
    shared: Node = layer.args[1]  # type: ignore[assignment]  # a weighted layer's second argument is a node
    adapter = _module(graph, shared)
    readers = sum(len(n.users) for n in graph.graph.nodes if n.op == "call_module" and n.target == shared.target)
    if adapter is None or readers < 2:
        return shared
    name = f"{shared.target}_{layer.name}"
    graph.add_submodule(name, copy.deepcopy(adapter))
    with graph.graph.inserting_before(layer):
        node = graph.graph.call_module(name, shared.args)
    node.meta = dict(shared.meta)
    layer.args = (layer.args[0], node, *layer.args[2:])
    return node


def _module(graph: GraphModule, node: object) -> nn.Module | None:
    if isinstance(node, Node) and node.op == "call_module":
        return graph.get_submodule(str(node.target))
    return None


def _origin(node: Node) -> Node:
    """The get_attr node that a weight comes from, through its fake-quantizer if it has one."""
    origin = node.args[0] if node.op == "call_module" else node
    if not isinstance(origin, Node):
        raise TypeError(f"{node}: not a weight")
    return origin


def _constant(graph: GraphModule, node: object) -> torch.Tensor | None:
    """The tensor of a get_attr node, fake-quantized where a weight's adapter stands behind it; None for anything else."""
    if not isinstance(node, Node):
        return None
    if node.op == "call_module" and isinstance(module := _module(graph, node), PerChannelWeight | PerChannelStep):
        held = _constant(graph, node.args[0])
        return None if held is None else module(held)
    if node.op != "get_attr":
        return None
    value = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach() if isinstance(value, torch.Tensor) else None


def _own(
    graph: GraphModule, layer: Node, index: int, target: str, value: torch.Tensor, behind: Node | None = None
) -> None:
    """Give `layer` a constant of its own as argument `index`: the attribute `target`, unless another layer reads that."""
    readers = {user for n in graph.graph.nodes if n.op == "get_attr" and n.target == target for user in n.users}
    if readers - {layer, behind}:
        target = f"{target}_{layer.name}"
    prefix, _, name = target.rpartition(".")
    owner = graph.get_submodule(prefix)
    if hasattr(owner, name):
        delattr(owner, name)
    owner.register_parameter(name, nn.Parameter(value, requires_grad=value.is_floating_point()))
    with graph.graph.inserting_before(behind or layer):
        node = graph.graph.get_attr(target)
    fake_mode = layer.meta["val"].fake_mode
    node.meta["val"] = fake_mode.from_tensor(value, static_shapes=True)
    if behind is not None:
        behind.replace_input_with(_origin(behind), node)
        return
    args = [*layer.args, *[None] * (index + 1 - len(layer.args))]
    args[index] = node
    layer.args = tuple(args)
