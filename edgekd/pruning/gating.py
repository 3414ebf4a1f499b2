"""A network under gates: while it trains, what reads a channel is multiplied by its gate; afterwards the weights hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from edgekd.pruning.gates import Gate, Gates
from edgekd.pruning.groups import Group, Member
from edgekd.pruning.replaced import KeptNorm, put

Factor = Callable[[], torch.Tensor]


@contextmanager
def gated(network: nn.Module, gates: Gates) -> Iterator[None]:
    """Gate `network` in place while the block runs. Each of its forward passes draws in training, and is settled in eval mode.

    A channel's gate multiplies the weights that read it, a branch's the weights and biases of its last layer; layer norms
    compute over channels whose gate is not 0. So a gate of 0 is a channel that is not there, and at the end, when the settled
    gates become part of the weights, narrowing the network changes nothing more.
    """
    factors: list[tuple[nn.Module, str, Factor]] = []
    for group in gates.groups:
        factors += [(m.layer, "weight", _spread(m, partial(gates.channels, group))) for m in group.consumers]
    for branch in gates.branches:
        names = [name for name, _ in branch.last.layer.named_parameters(recurse=False)]
        factors += [(branch.last.layer, name, partial(gates.branch, branch)) for name in names]
    norms = {m.name: m.layer for group in gates.groups for m in group.layer_norms}
    kept = {m.name: _shown(gates, group, m) for group in gates.groups for m in group.layer_norms}
    gates.draw(training=False)
    for layer, name, factor in factors:
        register_parametrization(layer, name, Gate(factor))
    for name, norm in norms.items():
        assert isinstance(norm, nn.LayerNorm | nn.RMSNorm)
        put(network, name, KeptNorm(norm, kept[name]))
    drawing = network.register_forward_pre_hook(lambda module, _: gates.draw(module.training))
    try:
        yield
    finally:
        drawing.remove()
        gates.draw(training=False)
        for layer, name in dict.fromkeys((layer, name) for layer, name, _ in factors):
            remove_parametrizations(layer, name, leave_parametrized=True)
        for name, norm in norms.items():
            put(network, name, norm)


def _spread(member: Member, values: Factor) -> Factor:
    """What multiplies a layer's weight: `values()` [channels] where the channels lie, 1 elsewhere."""
    position, channel = member.spread
    width, dims, axis = member.width, member.layer.get_parameter("weight").dim(), member.axis
    shape = [-1 if one == axis else 1 for one in range(dims)]

    def factor() -> torch.Tensor:
        now = values()
        return now.new_ones(width).index_put((position,), now[channel]).view(shape)

    return factor


def _shown(gates: Gates, group: Group, member: Member) -> Factor:
    """Which of a norm's channels are there: [width] of 0 and 1."""
    return lambda: member.along((gates.channels(group).detach() > 0).float())
