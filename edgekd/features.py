"""Features: the outputs of named modules, caught on their way through a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from edgekd.errors import UserError, nearest


@contextmanager
def capture(network: nn.Module, names: Sequence[str], whose: str) -> Iterator[dict[str, torch.Tensor]]:
    """While the block runs, keep the last output of each module called `names`; gradients flow through what is kept.

    `whose` is "student" or "teacher", for the message. Raises UserError for a name that is no module's (naming the
    nearest), for a module that gives no tensor, and for one that the network never called.
    """
    modules = {name: module for name, module in network.named_modules() if name} if names else {}
    for name in names:
        if name not in modules:
            flat = isinstance(network, torch.fx.GraphModule)
            hint = "a quantized program keeps no modules: use losses on logits" if flat else nearest(name, modules)
            raise UserError(f'the {whose} has no module "{name}"', hint=hint)
    caught: dict[str, torch.Tensor] = {}

    def keep(name: str, output: object) -> None:
        if not isinstance(output, torch.Tensor):
            raise UserError(f'the {whose}\'s module "{name}" gives a {type(output).__name__}, not a tensor')
        caught[name] = output

    hooks = [modules[n].register_forward_hook(lambda _module, _inputs, output, n=n: keep(n, output)) for n in names]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        if name not in caught:
            raise UserError(f'the {whose}\'s module "{name}" is not called when it runs', hint="name a module that is")


def same_size(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps [batch, channels, height, width] averaged down to the smaller height and the smaller width of the two.

    >>> wide, tall = same_size(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5, 4, 16))
    >>> list(wide.shape), list(tall.shape)
    ([1, 3, 4, 8], [1, 5, 4, 8])
    """
    height, width = (min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True))

    def fit(x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[2:] == (height, width) else adaptive_avg_pool2d(x, (height, width))

    return fit(first), fit(second)
