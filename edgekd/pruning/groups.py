"""Groups of coupled channels: what must go together when one channel goes.

A residual sum ties the outputs of two convolutions; a batch norm, a depth-wise convolution and the next layer's inputs follow
them; a concatenation or a flatten shifts where a channel lands. Torch-Pruning's dependency graph finds that coupling (Fang
et al. 2023, arXiv 2301.12900). The graph guesses at operations that it does not know, so each group is then put to the proof: with
half of its channels removed, the network must compute what it computes with those channels silenced where they are read. A
group that fails, or that holds a layer which an edit cannot narrow, is left whole, and the reason is reported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from edgekd.errors import UserError
from edgekd.pruning.edits import Side, channels, replay

TOLERANCE = 1e-4  # of the largest output: what float32 sums in another order may differ by


@dataclass(frozen=True, eq=False)
class Member:
    """One side of one layer, as far as it belongs to a group."""

    name: str
    layer: nn.Module
    side: Side
    positions: tuple[tuple[int, ...], ...]
    """For each channel of the group, where it lies on this side: mostly one index; after a flatten height × width of them;
    none where a concatenation brought only some of the group's channels here."""

    @property
    def axis(self) -> int:
        """The axis of `layer.weight` that this side runs along."""
        if not isinstance(self.layer, _ConvNd) or not self.layer.transposed or is_depthwise(self.layer):
            return 0 if self.side == "out" else 1
        return 1 if self.side == "out" else 0

    @torch.no_grad()
    def total(self, value: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`value(layer.weight)`, of the weight's shape, summed over what belongs to each channel: [channels]."""
        values = value(self.layer.get_parameter("weight")).movedim(self.axis, 0)
        by_position = values.reshape(len(values), -1).sum(1)
        channel = torch.tensor([c for c, places in enumerate(self.positions) for _ in places], dtype=torch.long)
        position = torch.tensor([p for places in self.positions for p in places], dtype=torch.long)
        return by_position.new_zeros(len(self.positions)).index_add(0, channel, by_position[position])

    def gate(self, values: torch.Tensor) -> torch.Tensor:
        """`values` [channels] where the channels lie on this side, 1 elsewhere, in a shape that multiplies `layer.weight`."""
        weight = self.layer.get_parameter("weight")
        channel = torch.tensor([c for c, places in enumerate(self.positions) for _ in places], dtype=torch.long)
        position = torch.tensor([p for places in self.positions for p in places], dtype=torch.long)
        spread = values.new_ones(weight.shape[self.axis]).index_put((position,), values[channel])
        return spread.view([-1 if axis == self.axis else 1 for axis in range(weight.dim())])


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are coupled across layers; removing one removes it from every member.

    `name` is the first layer that makes the channels. Members are listed in the network's own order of modules.
    """

    name: str
    channels: int
    members: tuple[Member, ...]

    @property
    def producers(self) -> tuple[Member, ...]:
        """Layers whose outputs the channels are: convolutions, depth-wise ones too, and linear layers."""
        return tuple(m for m in self.members if m.side == "out" and isinstance(m.layer, _ConvNd | nn.Linear))

    @property
    def norms(self) -> tuple[Member, ...]:
        """Batch norms with a learned scale that the channels pass."""
        return tuple(m for m in self.members if isinstance(m.layer, _BatchNorm) and m.layer.affine)

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Layers that read the channels and mix them: the only places from which the rest of the network sees them."""
        return tuple(m for m in self.members if m.side == "in")

    def total(self, members: Iterable[Member], value: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`value(weight)` summed over what belongs to each channel in all of `members`: [channels], zero where nothing does.

        `weight` is [out, in, ...] for convolutions and linear layers, γ [channels] for batch norms; `weight.grad` is there
        for a criterion that needs a gradient.
        """
        return sum((m.total(value) for m in members), torch.zeros(self.channels))


def first_order(weight: torch.Tensor) -> torch.Tensor:
    """g·w, g = ∂loss/∂w: what the loss would lose, to first order, if the weight were zeroed; zero where no gradient came."""
    return torch.zeros_like(weight) if weight.grad is None else weight.grad * weight


@dataclass(frozen=True)
class Groups:
    """All channels of a network: groups that can be pruned, and those left whole with the reason, by name."""

    prunable: tuple[Group, ...]
    whole: Mapping[str, str]


def find(network: nn.Module, inputs: torch.Tensor) -> Groups:
    """The groups of `network`, proved on `inputs` [batch, ...] (a few real samples). The network is not changed.

    Raises UserError for a network whose forward pass cannot be followed.
    """
    graph, names = _graph(network, inputs)
    layers = dict(network.named_modules())
    makers = [n for n, m in layers.items() if isinstance(m, _ConvNd | nn.Linear)]
    taken: dict[tuple[str, Side], set[int]] = {}
    prunable, whole = [], {}
    makers.sort(key=lambda name: is_depthwise(layers[name]))  # last: a depth-wise layer belongs to what it reads
    for name in makers:
        free = sorted(set(range(channels(layers[name], "out"))) - taken.get((name, "out"), set()))
        if not free:
            continue
        group, reason = _group(graph, names, layers, name, free)
        claims = {(m.name, m.side): {p for places in m.positions for p in places} for m in group.members}
        if any(positions & taken.get(key, set()) for key, positions in claims.items()):
            reason = reason or "some of its channels belong to another group too"
        for key, positions in claims.items():
            taken.setdefault(key, set()).update(positions)
        reason = reason or _disproof(network, group, inputs)
        if reason:
            whole[name] = reason
        else:
            prunable.append(group)
    return Groups(tuple(prunable), whole)


def nothing(whole: Mapping[str, str]) -> UserError:
    """The error for a student of which nothing can be pruned, with the reasons."""
    reasons = "; ".join(f'"{name}": {reason}' for name, reason in list(whole.items())[:3]) or "it has no such layers"
    hint = "groups of channels between two layers can be pruned: a convolution or linear layer that another one reads"
    return UserError(f"prune: the student has no group of channels that can be pruned: {reasons}", hint=hint)


def kept_sides(groups: Iterable[Group], keep: Mapping[str, Sequence[int]]) -> dict[str, dict[Side, list[int]]]:
    """What an edit records as `kept`, from the channels to keep of each group named in `keep`; other groups stay whole."""
    gone: dict[tuple[str, Side], set[int]] = {}
    sizes: dict[tuple[str, Side], int] = {}
    for group in groups:
        removed = set(range(group.channels)) - set(keep.get(group.name, range(group.channels)))
        for member in group.members if removed else ():
            key = member.name, member.side
            sizes[key] = channels(member.layer, member.side)
            gone.setdefault(key, set()).update(p for c in removed for p in member.positions[c])
    kept: dict[str, dict[Side, list[int]]] = {}
    for (name, side), positions in gone.items():
        kept.setdefault(name, {})[side] = [p for p in range(sizes[name, side]) if p not in positions]
    return kept


def is_depthwise(layer: nn.Module) -> bool:
    """One filter a channel: what comes out is tied to what goes in."""
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _graph(network: nn.Module, inputs: torch.Tensor) -> tuple[Any, dict[nn.Module, str]]:
    """Torch-Pruning's graph of a copy of the network, and the names of the copy's modules."""
    from torch_pruning import DependencyGraph

    traced = copy.deepcopy(network).requires_grad_(True)
    graph = DependencyGraph()
    try:
        with torch.enable_grad():
            graph.build_dependency(traced, inputs, forward_fn=lambda module, batch: module(batch), verbose=False)
    except Exception as error:
        message = f"the student's forward pass cannot be followed: {type(error).__name__}: {error}"
        raise UserError(message, hint="pruning needs a network that torch.autograd can trace") from error
    return graph, {module: name for name, module in traced.named_modules()}


def _group(
    graph: Any, names: Mapping[nn.Module, str], layers: Mapping[str, nn.Module], root: str, free: Sequence[int]
) -> tuple[Group, str]:
    """The group of the channels `free` of the layer `root`, and why it must stay whole, if it must."""
    module = next(m for m, name in names.items() if name == root)
    alone = Group(root, len(free), (Member(root, layers[root], "out", tuple((c,) for c in free)),))
    if module not in graph.module2node:
        return alone, "the forward pass does not run through it"
    members, reason = [], "" if len(free) > 1 else "it has one channel"
    prune_out = graph.get_pruner_of_module(module).prune_out_channels
    for item in graph.get_pruning_group(module, prune_out, list(free)):
        target = item.dep.target.module
        if isinstance(target, nn.Parameter):
            reason = reason or "a parameter outside any layer has one value for each of its channels"
        if not isinstance(target, nn.Module) or target not in names:
            continue  # an operation without weights: a sum, a concatenation, a reshape
        name = names[target]
        layer, side = layers[name], _side(graph, item)
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            continue
        if isinstance(layer, _ConvNd) and layer.groups > 1 and not is_depthwise(layer):
            reason = reason or f'"{name}" is a grouped convolution, whose groups must stay equally wide'
        try:
            channels(layer, side)
        except ValueError:
            reason = reason or f'"{name}" is a {type(layer).__name__}, which an edit cannot narrow'
            continue
        places: dict[int, list[int]] = {c: [] for c in free}
        for position, origin in zip(item.idxs, item.root_idxs, strict=True):
            places.setdefault(origin, []).append(position)
        if len(places) != len(free):
            reason = reason or f'where its channels lie in "{name}" is not known'
            continue
        members.append(Member(name, layer, side, tuple(tuple(sorted(places[c])) for c in free)))
    order = {name: i for i, name in enumerate(layers)}
    members.sort(key=lambda m: (order[m.name], m.side == "out"))
    return Group(root, len(free), tuple(members)), reason


def _side(graph: Any, item: Any) -> Side:
    return "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"


@torch.no_grad()
def _disproof(network: nn.Module, group: Group, inputs: torch.Tensor) -> str:
    """Why the group's channels cannot go together, or "": half of them, drawn at random, are removed and compared to silenced."""
    generator = torch.Generator().manual_seed(0)
    gone = torch.randperm(group.channels, generator=generator)[: group.channels // 2].tolist()
    silenced, removed = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    for member in group.consumers:
        weight = silenced.get_submodule(member.name).get_parameter("weight")
        positions = torch.tensor([p for c in gone for p in member.positions[c]], dtype=torch.long)
        weight.index_fill_(member.axis, positions, 0.0)
    kept = kept_sides([group], {group.name: [c for c in range(group.channels) if c not in gone]})
    expected = silenced(inputs)
    try:
        replay(removed, {"edit": "prune", "kept": kept})
        found = removed(inputs)
    except Exception as error:
        return f"the network does not run without some of its channels: {type(error).__name__}: {error}"
    if found.shape != expected.shape:
        return "its channels are the network's outputs"
    if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():  # NaN is no proof either
        return "an operation mixes its channels, so that removing one changes the others"
    return ""
