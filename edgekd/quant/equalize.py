"""Ranges made alike before rounding, without changing what the network computes: a scale moves from one layer to the next.

Both change the weights of a prepared graph in place, before it is calibrated; what stands before them is only read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.quant.adapter import in_float
from edgekd.quant.blocks import extract
from edgekd.quant.pt2e import fit_weights
from edgekd.quant.quantizer import KINDS, WEIGHTED

__all__ = ["equalize", "smooth"]

HOMOGENEOUS = (*KINDS["relu"], *KINDS["max_pool"], *KINDS["average_pool"], *KINDS["dropout"])
"""Operators f with f(s · x) = s · f(x) by channel, for s > 0."""
LAYER_NORM = torch.ops.aten.layer_norm.default


@dataclass(frozen=True)
class _Layer:
    """A weighted layer's parameters: weight [out, in / groups, ...], bias [out] or None, as the graph holds them."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    groups: int

    @property
    def inputs(self) -> int:
        return self.weight.shape[1] * self.groups

    def by_input(self) -> torch.Tensor:
        """A view of the weight, [groups, out / groups, in / groups, rest]: input channel i is (i // n, i % n), n = in / groups."""
        return self.weight.data.view(self.groups, -1, self.weight.shape[1], self.weight[0, 0].numel())

    def largest_by_input(self) -> torch.Tensor:
        """max |w| of each input channel [in]."""
        return self.by_input().abs().amax((1, 3)).reshape(-1)

    def scale_inputs(self, scale: torch.Tensor) -> None:
        self.by_input().mul_(scale.view(self.groups, 1, -1, 1))


@torch.no_grad()
def equalize(prepared: GraphModule, rounds: int = 20) -> int:
    """Cross-layer equalisation; batch norms must be folded. Returns how many pairs of layers it found.

    For each pair with only ReLU and pooling between, channel i of the first is divided by s_i and the second's input i
    multiplied: s_i = √(r₁ r₂) / r₂, r the largest |w| of the channel in each, so that both get the range √(r₁ r₂).
    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1, equations 8 to 11.
    """
    pairs = list(_pairs(prepared))
    for _ in range(rounds):
        moved = 0.0
        for first, second in pairs:
            r1, r2 = first.weight.data.flatten(1).abs().amax(1), second.largest_by_input()
            scale = torch.where((r1 > 0) & (r2 > 0), (r1 / r2).sqrt(), 1.0)
            first.weight.data.div_(scale.view(-1, *[1] * (first.weight.dim() - 1)))
            if first.bias is not None:
                first.bias.data.div_(scale)
            second.scale_inputs(scale)
            moved = max(moved, float((scale - 1).abs().max()))
        if moved < 1e-4:
            break
    fit_weights(prepared)
    return len(pairs)


@torch.no_grad()
def smooth(prepared: GraphModule, batches: Iterable[torch.Tensor], strength: float = 0.5) -> int:
    """SmoothQuant: large activations behind a layer norm become smaller, and the weights that read them larger.

    For every layer norm that only linear layers read: s_j = max |X_j|^α / max |W_j|^(1 − α), X over the batches, W over all
    its readers; γ and β are divided by s, the weights' inputs multiplied. α is `strength`. Returns how many it found.
    Source: Xiao et al. 2022, arXiv 2211.10438, equation 4.
    """
    found = [(norm, readers) for norm in prepared.graph.nodes if (readers := _linear_readers(prepared, norm))]
    if not found:
        return 0
    entry = next(node for node in prepared.graph.nodes if node.op == "placeholder")
    outputs = extract(prepared, entry, [norm for norm, _ in found])
    largest: list[torch.Tensor] = []
    with in_float(outputs):
        for batch in batches:
            seen = [value.flatten(0, -2).abs().amax(0) for value in outputs(batch)]
            largest = [torch.maximum(a, b) for a, b in zip(largest or seen, seen, strict=True)]
    for (norm, readers), activation in zip(found, largest, strict=True):
        weight = torch.stack([layer.largest_by_input() for layer in readers]).amax(0)
        usable = (activation > 0) & (weight > 0)
        scale = torch.where(usable, activation.pow(strength) / weight.pow(1 - strength), 1.0)
        for argument in norm.args[2:4]:
            _parameter(prepared, argument).data.div_(scale)
        for layer in readers:
            layer.scale_inputs(scale)
    fit_weights(prepared)
    return len(found)


def _pairs(graph: GraphModule) -> Iterable[tuple[_Layer, _Layer]]:
    for node in graph.graph.nodes:
        first = _layer(graph, node)
        if first is None:
            continue
        after = _only_reader(node)
        while after is not None and (after.op == "call_module" or after.target in HOMOGENEOUS):
            after = _only_reader(after)
        second = _layer(graph, after)
        if second is not None and second.inputs == first.weight.shape[0]:
            yield first, second


def _linear_readers(graph: GraphModule, norm: Node) -> Sequence[_Layer]:
    """The linear layers that read a layer norm with γ and β; none where anything else reads it, or it has neither."""
    if norm.target is not LAYER_NORM or len(norm.args) < 4 or not all(isinstance(a, Node) for a in norm.args[2:4]):
        return []
    readers, waiting = list[_Layer](), list(norm.users)
    while waiting:
        user = waiting.pop()
        if user.op == "call_module":
            waiting += user.users
            continue
        layer = _layer(graph, user) if user.target in KINDS["linear"] else None
        if layer is None:
            return []
        readers.append(layer)
    return readers


def _only_reader(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _layer(graph: GraphModule, node: Node | None) -> _Layer | None:
    """A weighted layer whose parameters nobody else reads."""
    if node is None or node.op != "call_function" or node.target not in WEIGHTED:
        return None
    held = node.args[1:3]
    if not all(isinstance(one, Node) and len(one.users) == 1 for one in held if one is not None):
        return None
    weight = _parameter(graph, held[0])
    bias = _parameter(graph, held[1]) if len(held) > 1 and held[1] is not None else None
    conv = node.target in KINDS["conv2d"]
    return _Layer(weight, bias, int(node.args[6]) if conv and len(node.args) > 6 else 1)  # type: ignore[arg-type]


def _parameter(graph: GraphModule, node: object) -> nn.Parameter:
    """The parameter of a get_attr node, or of one behind its adapter."""
    assert isinstance(node, Node)
    return graph.get_parameter(str((node.args[0] if node.op == "call_module" else node).target))  # type: ignore[union-attr]
