"""Networks run in part: up to a module, from a module on with other features, or for a moment without trace in their statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import nn

from edgekd.training.features import capture
from edgekd.training.graph_modules import traced


class _Reached(Exception):  # noqa: N818  # nothing went wrong: the rest of the network is not needed
    pass


def upto(network: nn.Module, names: Sequence[str], inputs: torch.Tensor, whose: str) -> dict[str, torch.Tensor]:
    """What the modules called `names` give for `inputs`; nothing behind the last of them that finishes is computed, unless the
    network is a graph of operators.

    Raises UserError as `capture` does.
    """

    def stop(_module: nn.Module, _inputs: object, _output: object) -> None:
        if all(name in caught for name in names):
            raise _Reached

    with ExitStack() as stack:
        caught = stack.enter_context(capture(network, names, whose))
        modules = {} if traced(network) else dict(network.named_modules())
        for name in names if modules else ():
            stack.callback(modules[name].register_forward_hook(stop).remove)
        stack.enter_context(suppress(_Reached))
        network(inputs)
    return caught


def onwards(network: nn.Module, name: str, inputs: torch.Tensor, features: torch.Tensor, whose: str) -> torch.Tensor:
    """What the network gives for `inputs` where its module called `name` gives `features`, the first time that it is called.

    Gradients flow to `features`. What goes around the module, as in a residual network that is cut within a block, stays the
    network's own. Raises UserError as `capture` does.
    """
    first = [True]

    def instead(_module: nn.Module, _inputs: object, _output: object) -> torch.Tensor | None:
        return features.clone() if first and first.pop() else None

    with capture(network, [name], whose):
        hook = dict(network.named_modules())[name].register_forward_hook(instead)
        try:
            outputs: torch.Tensor = network(inputs)
        finally:
            hook.remove()
    return outputs


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Whatever the block runs through it, the network's running statistics are afterwards what they were."""
    before = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)  # by `data`, since the gradient of what was run is still to be computed
