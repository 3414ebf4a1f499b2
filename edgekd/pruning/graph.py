"""Torch-Pruning's dependency graph of a network, told as groups of channels by the names of their layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edgekd.errors import UserError
from edgekd.pruning.groups import Group, Member, is_depthwise
from edgekd.pruning.narrowing import Side, channels


class Graph:
    """What is coupled with what (Fang et al. 2023, arXiv 2301.12900), traced on `inputs` [batch, ...] in a copy of the network.

    Raises UserError for a network whose forward pass cannot be followed.
    """

    def __init__(self, network: nn.Module, inputs: torch.Tensor) -> None:
        from torch_pruning import DependencyGraph

        traced = copy.deepcopy(network).requires_grad_(True)
        self._graph = DependencyGraph()
        try:
            with torch.enable_grad():
                self._graph.build_dependency(
                    traced, inputs, forward_fn=lambda module, batch: module(batch), verbose=False
                )
        except Exception as error:
            message = f"the student's forward pass cannot be followed: {type(error).__name__}: {error}"
            raise UserError(message, hint="pruning needs a network that torch.autograd can trace") from error
        self._network = network
        self._layers = dict(network.named_modules())
        self._traced = dict(traced.named_modules())
        self._names = {id(module): name for name, module in self._traced.items()}
        self._parameters = {id(value): name for name, value in traced.named_parameters()}

    def group(self, root: str, free: Sequence[int]) -> tuple[Group, str]:
        """The group of the channels `free` of the layer `root`, and why it must stay whole, if it must."""
        module = self._traced[root]
        alone = Group(root, len(free), (Member(root, self._layers[root], "out", tuple((c,) for c in free)),))
        if module not in self._graph.module2node:
            return alone, "the forward pass does not run through it"
        members, reason = [], "" if len(free) > 1 else "it has one channel"
        prune_out = self._graph.get_pruner_of_module(module).prune_out_channels
        try:
            items = list(self._graph.get_pruning_group(module, prune_out, list(free)))
        except Exception as error:  # it guesses at shapes
            return alone, f"what is coupled to it cannot be followed: {type(error).__name__}: {error}"
        for item in items:
            found, wrong = self._member(item, free)
            reason = reason or wrong
            if found is not None:
                members.append(found)
        order = {name: i for i, name in enumerate(self._layers)}
        members.sort(key=lambda m: (order.get(m.name, -1), m.side == "out"))
        return Group(root, len(free), tuple(members)), reason

    def variants(self, group: Group) -> Iterator[Group]:
        """The group, then with the buffers whose last axis is as wide: autograd does not see a table of positions."""
        yield group
        claimed = {m.name for m in group.members}
        every = tuple((c,) for c in range(group.channels))
        fixed = [
            Member(name, self._layers[name.rpartition(".")[0]], "out", every, loose=True)
            for name, buffer in self._network.named_buffers()
            if buffer.is_floating_point() and buffer.dim() > 1 and buffer.shape[-1] == group.channels
            if name not in claimed
        ]
        if fixed:
            yield replace(group, members=(*fixed, *group.members))

    def _member(self, item: Any, free: Sequence[int]) -> tuple[Member | None, str]:
        """What of the group an item of Torch-Pruning's stands for, None for no layer; and why it cannot be narrowed, if so."""
        target = item.dep.target.module
        side: Side = "out"
        wrong = ""
        loose = isinstance(target, nn.Parameter)
        if loose:
            name = self._parameters[id(target)]
            layer = self._layers[name.rpartition(".")[0]]
            if isinstance(layer, nn.RMSNorm):  # one that Torch-Pruning does not know
                return self._placed(item, free, name.rpartition(".")[0], layer)
            if self._graph.module2node[target].pruning_dim not in (-1, target.dim() - 1):
                return None, f'the parameter "{name}" has its channels on another axis than the last'
        elif not isinstance(target, nn.Module) or id(target) not in self._names:
            return None, ""  # an operation without weights: a sum, a concatenation, a reshape
        else:
            name = self._names[id(target)]
            layer = self._layers[name]
            side = "out" if self._graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
                return None, ""
            if isinstance(layer, _ConvNd) and layer.groups > 1 and not is_depthwise(layer):
                wrong = f'"{name}" is a grouped convolution, whose groups must stay equally wide'
            try:
                channels(layer, side)
            except ValueError:
                return None, wrong or f'"{name}" is a {type(layer).__name__}, which an edit cannot narrow'
        member, unplaced = self._placed(item, free, name, layer, side, loose)
        return member, wrong or unplaced

    def _placed(
        self, item: Any, free: Sequence[int], name: str, layer: nn.Module, side: Side = "out", loose: bool = False
    ) -> tuple[Member | None, str]:
        places: dict[int, list[int]] = {c: [] for c in free}
        for position, origin in zip(item.idxs, item.root_idxs, strict=True):
            places.setdefault(origin, []).append(position)
        if len(places) != len(free):
            return None, f'where its channels lie in "{name}" is not known'
        return Member(name, layer, side, tuple(tuple(sorted(places[c])) for c in free), loose), ""
