"""Features: the outputs of named modules, caught on their way through a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from edgekd.errors import UserError, nearest


@contextmanager
def capture(network: nn.Module, names: Sequence[str], whose: str) -> Iterator[dict[str, torch.Tensor]]:
    """While the block runs, keep the last output of each module called `names`; gradients flow through what is kept.

    `whose` is "student" or "teacher", for the message. Raises UserError, naming the nearest, for a name that is no module's,
    for a module that gives no tensor, and for one that the network never called.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str, output: object) -> None:
        if not isinstance(output, torch.Tensor):
            raise UserError(f'the {whose}\'s module "{name}" gives a {type(output).__name__}, not a tensor')
        caught[name] = output

    for name in names:
        if name not in modules:
            flat = isinstance(network, torch.fx.GraphModule)
            hint = "a quantized program has none: use losses on logits" if flat else nearest(name, modules)
            raise UserError(f'the {whose} has no module "{name}"', hint=hint)
    hooks = [
        modules[name].register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output)) for name in names
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if name not in caught:
            raise UserError(f'the {whose}\'s module "{name}" is not called when it runs', hint="name a module that is")
