"""What the quantization of each layer alone costs the outputs: what a report shows, and what mixed precision is planned by."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.metric import agreement
from edgekd.quant.adapter import ActivationGrid, PerChannelWeight, in_float
from edgekd.quant.blocks import weight_step
from edgekd.quant.grid import Grid
from edgekd.quant.neighbours import nearest_layers
from edgekd.quant.onnx_weights import Packed
from edgekd.quant.precision import FLOAT, GROUP, bits_alone
from edgekd.quant.quantizer import KINDS, WEIGHTED, layer_name
from edgekd.quant.step import PerChannelStep
from edgekd.training.train import logits_of

__all__ = [
    "KL",
    "SQUARED",
    "Unit",
    "choice_losses",
    "float_weights",
    "loss",
    "measure_of",
    "narrows",
    "put_back",
    "rounded",
    "sensitivities",
    "units",
    "weight_of",
    "weight_sensitivities",
]

KL, SQUARED = "KL", "squared error"
"""What a sensitivity is: nats, of class scores; else ‖ŷ − y‖² / ‖y‖²."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A quantized layer of a prepared graph: its operators (several, where they share a weight), and what rounds for it.

    `grids`: of the tensors that it reads and, of what is made behind it, of those that no layer reads, as sums and means.
    """

    name: str
    nodes: tuple[Node, ...]
    weights: tuple[PerChannelStep | PerChannelWeight, ...]
    grids: tuple[ActivationGrid, ...]

    def round(self, on: bool) -> None:
        """Let its adapters round, or pass what they get."""
        for adapter in (*self.weights, *self.grids):
            adapter.off = not on


def units(prepared: GraphModule) -> list[Unit]:
    """The quantized layers of a prepared graph, in order. Every activation's grid belongs to one of them or more."""
    nodes = list(prepared.graph.nodes)
    layers = [node for node in nodes if node.target in WEIGHTED and weight_step(prepared, node) is not None]
    named: dict[str, list[Node]] = {}
    for layer in layers:
        named.setdefault(layer_name(layer), []).append(layer)
    grids: dict[str, list[ActivationGrid]] = {name: [] for name in named}
    read = set()
    for layer in layers:
        if (grid := _grid(prepared, layer.args[0])) is not None:
            grids[layer_name(layer)].append(grid)
            read.add(grid)
    before, behind = nearest_layers(nodes, {*WEIGHTED})
    for node in nodes:
        grid = _grid(prepared, node)
        if grid is None or grid in read:
            continue
        for layer in before[node] or behind[node]:
            if layer_name(layer) in grids:
                grids[layer_name(layer)].append(grid)
    found = []
    for name, held in named.items():
        weights = dict.fromkeys(weight_step(prepared, layer) for layer in held)
        found.append(
            Unit(name, tuple(held), tuple(w for w in weights if w is not None), tuple(dict.fromkeys(grids[name])))
        )
    return found


def _grid(prepared: GraphModule, node: object) -> ActivationGrid | None:
    if not isinstance(node, Node) or node.op != "call_module":
        return None
    found = prepared.get_submodule(str(node.target))
    return found if isinstance(found, ActivationGrid) else None


def measure_of(outputs: torch.Tensor) -> str:
    """How far outputs [n, ...] are from others is measured: KL of class scores, else the squared error."""
    return KL if outputs.dim() == 2 and outputs.shape[1] > 1 else SQUARED


def loss(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean KL(reference ‖ found) in nats of [n, classes], at least 0; of any other shape ‖found − reference‖² / ‖reference‖².

    Source: Cai et al. 2020, arXiv 2001.00281, equation 6 (its Ω), by the float network's own outputs.
    """
    if measure_of(reference) == KL:
        return max(agreement(found.numpy(), reference.numpy())["kl"], 0.0)
    theirs = reference.double()
    return float((found.double() - theirs).square().sum() / theirs.square().sum().clamp_min(1e-30))


def sensitivities(prepared: GraphModule, inputs: torch.Tensor) -> dict[str, float]:
    """The loss of the outputs on inputs [n, ...] with one layer rounded and all else in float, by layer, in order.

    `prepared` is calibrated and in eval mode; it is left as it was. One forward a layer, and one in float.
    """
    found = {}
    with in_float(prepared):
        reference = logits_of(prepared, inputs)
        for unit in units(prepared):
            unit.round(True)
            found[unit.name] = loss(logits_of(prepared, inputs), reference)
            unit.round(False)
    return found


@torch.no_grad()
def weight_sensitivities(
    prepared: GraphModule, inputs: torch.Tensor, choices: Mapping[str, Sequence[int]], grid: Grid, search: bool
) -> dict[str, list[float]]:
    """The loss of the outputs with the weight of one layer at so many bits and all else in float, for each of its choices.

    `search`: narrow steps are those that lose least, not those that span the extremes. 32 bits lose nothing.
    """
    found = {}
    with in_float(prepared):
        reference = logits_of(prepared, inputs)
        for unit in units(prepared):
            weight = weight_of(prepared, unit)
            held = weight.detach().clone()
            losses = []
            for bits in choices[unit.name]:
                weight.copy_(held if bits == 32 else rounded(held, bits, grid, search))
                losses.append(0.0 if bits == 32 else loss(logits_of(prepared, inputs), reference))
                weight.copy_(held)
            found[unit.name] = losses
    return found


def rounded(weight: torch.Tensor, bits: int, grid: Grid, search: bool) -> torch.Tensor:
    """A weight [channels, ...] on the grid of that many bits, as a prepared graph rounds it."""
    low, high = grid.weight_limits(bits)
    scheme = torch.per_channel_symmetric if grid.weight_symmetric(bits) else torch.per_channel_affine
    step = PerChannelStep(torch.int8, low, high, scheme, 0, search=search and bits < 8)
    step.fit(weight)
    return step(weight)  # type: ignore[no-any-return]  # a module's call is untyped


def weight_of(prepared: GraphModule, unit: Unit) -> nn.Parameter:
    """The float weight behind the adapter of a unit."""
    held = unit.nodes[0].args[1].args[0]  # type: ignore[union-attr]  # it is read through an adapter
    return prepared.get_parameter(str(held.target))  # type: ignore[union-attr]


def float_weights(prepared: GraphModule) -> dict[str, torch.Tensor]:
    """Copies of the weights behind the adapters, by the name of the layer."""
    return {unit.name: weight_of(prepared, unit).detach().clone() for unit in units(prepared)}


@contextmanager
def put_back(prepared: GraphModule, layers: Collection[str], floats: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Meanwhile these layers of a finished graph compute in float, with the weights in `floats` where they are there.

    All else stays as it is. What such a layer reads is read in float by all, so this is a guess at what the graph would be that
    was finished with these layers in float.
    """
    chosen = [unit for unit in units(prepared) if unit.name in layers]
    held = {unit.name: weight_of(prepared, unit).detach().clone() for unit in chosen if unit.name in floats}
    with torch.no_grad():
        for unit in chosen:
            unit.round(False)
            if unit.name in held:
                weight_of(prepared, unit).copy_(floats[unit.name])
    try:
        yield
    finally:
        with torch.no_grad():
            for unit in chosen:
                unit.round(True)
                if unit.name in held:
                    weight_of(prepared, unit).copy_(held[unit.name])


def narrows(prepared: GraphModule, unit: Unit) -> bool:
    """Whether it is a linear layer whose weight alone may be integers, in groups of `GROUP`."""
    linear = all(node.target in KINDS["linear"] for node in unit.nodes)
    return linear and weight_of(prepared, unit).shape[1] >= GROUP


@torch.no_grad()
def choice_losses(
    prepared: GraphModule,
    inputs: torch.Tensor,
    choices: Mapping[str, Sequence[int | str]],
    grid: Grid,
    search: bool,
    whole: bool,
) -> dict[str, list[float]]:
    """The loss of the outputs with one layer so and all else in float, for each of its choices: bits, or "int4" and "int8".

    Bits are of the weight; with `whole` what the layer reads is rounded with it, as it is calibrated.
    """
    wide = {name: [one for one in its if isinstance(one, int)] for name, its in choices.items()}
    if whole:
        alone = sensitivities(prepared, inputs)
        found = {name: [0.0 if bits == FLOAT else alone[name] for bits in its] for name, its in wide.items()}
    else:
        found = weight_sensitivities(prepared, inputs, wide, grid, search)
    with in_float(prepared):
        reference = logits_of(prepared, inputs)
        for unit in units(prepared):
            weight = weight_of(prepared, unit)
            held = weight.detach().clone()
            for choice in choices[unit.name][len(wide[unit.name]) :]:
                values = Packed.of(held.numpy(), bits_alone(str(choice)), GROUP).values()
                weight.copy_(torch.from_numpy(values))
                found[unit.name].append(loss(logits_of(prepared, inputs), reference))
                weight.copy_(held)
    return found
