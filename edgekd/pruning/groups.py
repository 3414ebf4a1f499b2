"""Groups of coupled channels: what must go together when one channel goes.

A residual sum ties the outputs of two convolutions; a batch norm, a depth-wise convolution and the next layer's inputs follow
them; a concatenation or a flatten shifts where a channel lands. Torch-Pruning's dependency graph finds that coupling (`graph.py`);
the heads of an attention are found by `heads.py`, and are a group whose channels are several positions wide. Either guesses at
operations that it does not know, so each group is then put to the proof: with half of its channels removed, the network must
compute what it computes with those channels silenced where they are read. A group that fails, or that holds a layer which an
edit cannot narrow, is left whole, and the reason is reported.

A layer norm computes over the channels that are there: silenced ones must not count in it, or nothing of a residual stream that
it normalises could be proved. What its mean and variance lose with them is the price of pruning, as what is read of them is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from edgekd.errors import UserError
from edgekd.pruning.narrowing import Side, channels
from edgekd.pruning.proof import disproof
from edgekd.pruning.replaced import KeptNorm, put

HEADS = "its heads"
"""What the channels of an attention are called."""


@dataclass(frozen=True, eq=False)
class Member:
    """One side of one layer, or a parameter or buffer by itself, as far as it belongs to a group."""

    name: str
    layer: nn.Module
    """Of a tensor by itself, the module that holds it."""
    side: Side
    positions: tuple[tuple[int, ...], ...]
    """For each channel of the group, where it lies on this side: mostly one index; after a flatten height × width of them;
    of a head as many as it is wide; none where a concatenation brought only some of the group's channels here."""
    loose: bool = False
    """Whether it is a tensor by itself: its last axis."""

    @property
    def axis(self) -> int:
        """The axis of `layer.weight` that this side runs along."""
        if isinstance(self.layer, nn.Embedding):
            return 1
        if not isinstance(self.layer, _ConvNd) or not self.layer.transposed or is_depthwise(self.layer):
            return 0 if self.side == "out" else 1
        return 1 if self.side == "out" else 0

    @property
    def width(self) -> int:
        """How many positions there are on this side, of whatever group."""
        if not self.loose:
            return channels(self.layer, self.side)
        tensor: torch.Tensor = getattr(self.layer, self.name.rpartition(".")[2])
        return tensor.shape[-1]

    @property
    def spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(position, its channel), both [positions that belong to the group]."""
        channel = torch.tensor([c for c, places in enumerate(self.positions) for _ in places], dtype=torch.long)
        return torch.tensor([p for places in self.positions for p in places], dtype=torch.long), channel

    @torch.no_grad()
    def total(self, value: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`value(layer.weight)`, of the weight's shape, summed over what belongs to each channel: [channels]."""
        values = value(self.layer.get_parameter("weight")).movedim(self.axis, 0)
        by_position = values.reshape(len(values), -1).sum(1)
        position, channel = self.spread
        return by_position.new_zeros(len(self.positions)).index_add(0, channel, by_position[position])

    def along(self, values: torch.Tensor) -> torch.Tensor:
        """`values` [channels] where the channels lie on this side, 1 elsewhere: [width]."""
        position, channel = self.spread
        return values.new_ones(self.width).index_put((position,), values[channel])

    def gate(self, values: torch.Tensor) -> torch.Tensor:
        """`along`, in a shape that multiplies `layer.weight`."""
        dims = self.layer.get_parameter("weight").dim()
        return self.along(values).view([-1 if axis == self.axis else 1 for axis in range(dims)])


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are coupled across layers; removing one removes it from every member.

    `name` is the first layer that makes the channels, or the attention whose heads they are. Members are listed in the
    network's own order of modules. `sizes`: (module, attribute) → how much of that number belongs to one channel.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    sizes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    what: str = "its channels"

    @property
    def producers(self) -> tuple[Member, ...]:
        """Layers whose outputs the channels are: convolutions, depth-wise ones too, linear layers and embeddings."""
        makers = (_ConvNd, nn.Linear, nn.Embedding)
        return tuple(m for m in self.members if m.side == "out" and not m.loose and isinstance(m.layer, makers))

    @property
    def norms(self) -> tuple[Member, ...]:
        """Batch norms with a learned scale that the channels pass."""
        return tuple(m for m in self.members if isinstance(m.layer, _BatchNorm) and m.layer.affine)

    @property
    def layer_norms(self) -> tuple[Member, ...]:
        """Layer norms, and root mean square norms, that compute over the channels."""
        return tuple(m for m in self.members if isinstance(m.layer, nn.LayerNorm | nn.RMSNorm) and not m.loose)

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Layers that read the channels and mix them: the only places from which the rest of the network sees them."""
        return tuple(m for m in self.members if m.side == "in")

    def total(self, members: Iterable[Member], value: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """`value(weight)` summed over what belongs to each channel in all of `members`: [channels], zero where nothing does.

        `weight` is [out, in, ...] for convolutions and linear layers, [words, out] for embeddings, γ [channels] for batch
        norms; `weight.grad` is there for a criterion that needs a gradient.
        """
        return sum((m.total(value) for m in members), torch.zeros(self.channels))

    def step(self, multiple: int) -> int:
        """In what numbers its channels go, so that the layers that make them stay multiples of `multiple` wide.

        >>> head = tuple((3 * h, 3 * h + 1, 3 * h + 2) for h in range(8))
        >>> heads = Group("attention", 8, (Member("query", nn.Linear(4, 24), "out", head),))
        >>> heads.step(1), heads.step(3), heads.step(6), heads.step(4)
        (1, 1, 2, 4)
        """
        wide = {len(places) for m in self.producers for places in m.positions} or {1}
        return max(multiple // math.gcd(multiple, max(one, 1)) for one in wide)


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

    An `nn.MultiheadAttention` has to be opened before (`edgekd.pruning.edits.closed`), else it is left whole. Raises UserError
    for a network whose forward pass cannot be followed.
    """
    from edgekd.pruning.graph import Graph
    from edgekd.pruning.heads import heads

    graph = Graph(network, inputs)
    layers = dict(network.named_modules())
    taken: dict[tuple[str, Side], set[int]] = {}
    prunable, whole = [], {}
    for group, reason in heads(network, inputs):
        _claim(group, taken)
        if reason:
            whole[group.name] = reason
        else:
            prunable.append(group)
    makers = [n for n, m in layers.items() if isinstance(m, _ConvNd | nn.Linear | nn.Embedding)]
    makers.sort(key=lambda name: is_depthwise(layers[name]))  # last: a depth-wise layer belongs to what it reads
    for name in makers:
        try:
            size = channels(layers[name], "out")
        except ValueError as error:
            whole[name] = str(error)
            continue
        free = sorted(set(range(size)) - taken.get((name, "out"), set()))
        if not free:
            continue
        group, reason = graph.group(name, free)
        if _claim(group, taken):
            reason = reason or "some of its channels belong to another group too"
        for variant in () if reason else graph.variants(group):
            group, reason = variant, unproved(network, variant, inputs)
            if not reason:
                break
        if reason:
            whole[name] = reason
        else:
            prunable.append(group)
    return Groups(tuple(prunable), whole)


def _claim(group: Group, taken: dict[tuple[str, Side], set[int]]) -> bool:
    """Note what belongs to a group; whether some of that belonged to another one already."""
    claims = {(m.name, m.side): {p for places in m.positions for p in places} for m in group.members}
    twice = any(positions & taken.get(key, set()) for key, positions in claims.items())
    for key, positions in claims.items():
        taken.setdefault(key, set()).update(positions)
    return twice


def unproved(network: nn.Module, group: Group, inputs: torch.Tensor) -> str:
    """Why the group's channels cannot go together, or "": half of them, drawn at random, are removed and compared to silenced."""
    generator = torch.Generator().manual_seed(0)
    gone = torch.randperm(group.channels, generator=generator)[: group.channels // 2].tolist()
    kept = {group.name: [c for c in range(group.channels) if c not in gone]}
    return disproof(network, inputs, cut([group], kept), lambda copied: silence(copied, group, gone), group.what)


@torch.no_grad()
def silence(network: nn.Module, group: Group, gone: Sequence[int]) -> None:
    """Blind a network, in place, to channels of a group: weights that read them are zero, layer norms count the others only."""
    for member in group.consumers:
        weight = network.get_submodule(member.name).get_parameter("weight")
        positions = torch.tensor([p for c in gone for p in member.positions[c]], dtype=torch.long)
        weight.index_fill_(member.axis, positions, 0.0)
    shown = torch.ones(group.channels)
    shown[list(gone)] = 0.0
    for member in group.layer_norms:
        kept = member.along(shown)
        norm = network.get_submodule(member.name)
        assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
        put(network, member.name, KeptNorm(norm, kept.clone))


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
            sizes[key] = member.width
            gone.setdefault(key, set()).update(p for c in removed for p in member.positions[c])
    kept: dict[str, dict[Side, list[int]]] = {}
    for (name, side), positions in gone.items():
        kept.setdefault(name, {})[side] = [p for p in range(sizes[name, side]) if p not in positions]
    return kept


def cut(
    groups: Sequence[Group], keep: Mapping[str, Sequence[int]], removed: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """What an edit records of a plan: `kept`, and where there are any, `sizes` and the `removed` parts of branches.

    Whatever lies in a removed part is not narrowed besides.
    """

    def inside(name: str) -> bool:
        return any(name == part or name.startswith(f"{part}.") for part in removed or ())

    kept = {name: sides for name, sides in kept_sides(groups, keep).items() if not inside(name)}
    sizes: dict[str, dict[str, int]] = {}
    for group in groups:
        left = len(keep.get(group.name, range(group.channels)))
        for (name, attribute), one in group.sizes.items() if left < group.channels else ():
            if not inside(name):
                sizes.setdefault(name, {})[attribute] = one * left
    found: dict[str, Any] = {"kept": kept}
    return found | ({"sizes": sizes} if sizes else {}) | ({"removed": dict(removed)} if removed else {})


def is_depthwise(layer: nn.Module) -> bool:
    """One filter a channel: what comes out is tied to what goes in."""
    return isinstance(layer, _ConvNd) and 1 < layer.groups == layer.in_channels == layer.out_channels
