"""Bias correction: rounding shifts the mean of each channel, and the bias takes the shift back."""

from __future__ import annotations

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.quant.adapter import in_float
from edgekd.quant.blocks import extract, weight_step
from edgekd.quant.quantizer import WEIGHTED

__all__ = ["correct_biases"]

CHUNK = 256


@torch.no_grad()
def correct_biases(prepared: GraphModule, inputs: torch.Tensor) -> int:
    """b ← b + E[y] − E[ŷ] by channel, layer after layer, each seeing the corrected ones before it. inputs [n, ...].

    y is what a layer of the float network gives, ŷ what the calibrated one gives, before any activation function; the means
    are over the inputs. A layer without a bias is left. Returns how many were corrected.
    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix D.
    """
    entry = next(node for node in prepared.graph.nodes if node.op == "placeholder")
    layers = [n for n in prepared.graph.nodes if n.target in WEIGHTED and _correctable(prepared, n)]
    if not layers:
        return 0
    whole = extract(prepared, entry, layers)
    with in_float(whole):
        expected = _means(whole, inputs)
    for layer, mean in zip(layers, expected, strict=True):
        bias = _bias(prepared, layer)
        assert bias is not None
        bias.data += mean - _means(extract(prepared, entry, [layer]), inputs)[0]
    return len(layers)


def _means(module: GraphModule, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The mean of each output by channel [channels]: axis 1 of images, the last one of anything else."""
    sums: list[torch.Tensor] = []
    for chunk in inputs.split(CHUNK):
        new = [_channel_sum(y) * (len(chunk) / y.numel()) for y in module(chunk)]
        sums = [a + b for a, b in zip(sums, new, strict=True)] if sums else new
    return [(total * len(total) / len(inputs)).float() for total in sums]


def _channel_sum(y: torch.Tensor) -> torch.Tensor:
    channels = 1 if y.dim() == 4 else y.dim() - 1
    return y.double().sum([axis for axis in range(y.dim()) if axis != channels])


def _correctable(graph: GraphModule, layer: Node) -> bool:
    return weight_step(graph, layer) is not None and _bias(graph, layer) is not None


def _bias(graph: GraphModule, layer: Node) -> nn.Parameter | None:
    source = layer.args[2] if len(layer.args) > 2 else None
    return graph.get_parameter(str(source.target)) if isinstance(source, Node) and len(source.users) == 1 else None
