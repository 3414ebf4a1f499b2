"""Swing convolution: while images are made, a strided convolution starts at a random place, so that no pixel is favoured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad


def shifted(x: torch.Tensor, rows: int, columns: int, reach: tuple[int, int]) -> torch.Tensor:
    """x [batch, channels, height, width] moved by `rows` and `columns`, each within ± its `reach`; reflected at the edges.

    Row i of the result is row i + rows of x.
    """
    tall, wide = reach
    padded = pad(x, (wide, wide, tall, tall), mode="reflect")
    top, left = tall + rows, wide + columns
    return padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]


@contextmanager
def swinging(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """While the block runs, each strided convolution sees its input moved at random by less than its stride.

    Without it, the gradient of a strided layer draws its own checkerboard into the image.
    Source: Jeon et al. 2023, arXiv 2212.04780 (swing convolution): reflection padding by stride − 1, then a random crop.
    """

    def move(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        assert isinstance(module, nn.Conv2d)
        x = arguments[0]
        reach = tuple(min(int(stride) - 1, size - 1) for stride, size in zip(module.stride, x.shape[2:], strict=True))
        rows, columns = (int(torch.randint(-r, r + 1, (), generator=generator)) for r in reach)
        return (shifted(x, rows, columns, (reach[0], reach[1])), *arguments[1:])

    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    hooks = [module.register_forward_pre_hook(move) for module in strided]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
