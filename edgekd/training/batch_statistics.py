"""Batch norm over a batch that several processes share, whose mean and variance are those of all rows; and over a batch of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Total = Callable[[torch.Tensor], torch.Tensor]
"""The sum of a tensor over all processes, with its gradient."""

MODULES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
GRAPHS = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
ORDERS: dict[Any, tuple[str, ...]] = {
    functional.batch_norm: MODULES,
    torch.batch_norm: GRAPHS,
    torch.ops.aten.batch_norm.default: GRAPHS,
}
DEFAULTS = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}


@final
class WholeBatch(TorchFunctionMode):
    """While it is entered, batch norm that trains takes its statistics over the rows of every process.

    Modules and graphs of operators are met alike, and no module is replaced, so that names and state stay as they are.
    """

    def __init__(self, total: Total) -> None:
        super().__init__()
        self.total = total

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in ORDERS:
            given = {**DEFAULTS, **dict(zip(ORDERS[func], args, strict=False)), **(kwargs or {})}
            if given["training"]:
                return batch_norm(self.total, *(given[name] for name in MODULES if name != "training"))
        return func(*args, **(kwargs or {}))


@final
class _Fewest(TorchFunctionMode):
    """While it is entered, `found` is the fewest values that any batch norm has met in a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.found: float = math.inf

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in ORDERS:
            x = args[0] if args else (kwargs or {})["input"]
            self.found = min(self.found, x.numel() / x.shape[1])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def needs_two(network: nn.Module, inputs: torch.Tensor) -> bool:
    """Whether some batch norm of a network in eval mode finds a single value in each channel of one sample [1, ...].

    Such values have no variance: trained on a batch of one, it gives β whatever it is given.
    """
    with _Fewest() as mode:
        network(inputs)
    return bool(mode.found <= 1)


def batch_norm(
    total: Total,
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """γ (x − μ) / √(σ² + ε) + β for this process's x [rows, channels, …], with μ, σ² of each channel over all processes.

    The running statistics move to μ and to the unbiased variance by `momentum`, as torch's own do, in every process alike.
    Source: Ioffe, Szegedy 2015, arXiv 1502.03167, algorithm 1.
    """
    kind, x = x.dtype, x.float()
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    seen = total(torch.cat([x.sum(dims), x.new_tensor([x.numel() / x.shape[1]])]))
    count = seen[-1].detach()
    mean = seen[:-1] / count
    centred = x - mean.view(shape)
    variance = total(centred.square().sum(dims)) / count
    with torch.no_grad():
        for running, now in ((running_mean, mean), (running_var, variance * count / (count - 1))):
            if running is not None:
                running.mul_(1 - momentum).add_(momentum * now)
    normal = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    return normal.to(kind)
