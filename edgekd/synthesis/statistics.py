"""What batch norm remembers of the training data, and how far the inputs of a set of images are from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.errors import UserError

if TYPE_CHECKING:
    from edgekd.target import Calibration

EPSILON = 1e-6


@dataclass(frozen=True)
class Moments:
    """Of `count` values a channel: mean [channels] and variance [channels], divided by count."""

    count: int
    mean: torch.Tensor
    variance: torch.Tensor

    def detached(self) -> Moments:
        return Moments(self.count, self.mean.detach(), self.variance.detach())


def of_channels(x: torch.Tensor) -> Moments:
    """Moments of activations [batch, channels, ...] over batch and space."""
    over = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x, over, correction=0)
    return Moments(x.numel() // x.shape[1], mean, variance)


def together(parts: Sequence[Moments]) -> Moments:
    """Moments of all parts as one: m = Σ nᵢmᵢ / n, v = Σ nᵢ(vᵢ + (mᵢ − m)²) / n.

    Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm", for many parts.
    """
    if len(parts) == 1:
        return parts[0]
    count = sum(part.count for part in parts)
    mean = torch.stack([part.mean * (part.count / count) for part in parts]).sum(0)
    spread = [(part.variance + (part.mean - mean) ** 2) * (part.count / count) for part in parts]
    return Moments(count, mean, torch.stack(spread).sum(0))


def distance(found: Moments, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """(‖μ̃ − μ‖² + ‖σ̃ − σ‖²) / channels, of one batch norm's input.

    Source: Cai et al. 2020, arXiv 2001.00281, equation 3, as a mean over channels like the code published with it and
    with Jeon et al. 2023, arXiv 2212.04780, so that a wide layer weighs no more than a narrow one.
    """
    theirs = torch.sqrt(found.variance + EPSILON)
    return ((found.mean - mean) ** 2).mean() + ((theirs - deviation) ** 2).mean()


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The modules that keep running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def require(network: nn.Module, recipe: Calibration) -> None:
    """Raises UserError, with what works instead, for a network without batch norm."""
    if batch_norms(network):
        return
    raise UserError(
        f'calibration "{recipe.name}": source "{recipe.source}" reads batch-norm statistics, and the student has no batch norm: '
        "nothing in it says what its inputs look like",
        hint='source = "teacher" makes inputs that a teacher network is sure of; source = "gaussian" is noise, whose '
        'price the ledger shows; a few real samples (source = "images", "npz" or "coreset") are better than both',
    )


class _Normalised(torch.autograd.Function):
    """x [batch, channels, ...] → x · scale + shift, with mean and variance a channel, in one pass forward and one back.

    What batch norm in eval mode and `of_channels` compute; torch takes nine times as long for it on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        _, mean, rate = torch.native_batch_norm(x, None, None, None, None, True, 0.0, 0.0)
        ctx.save_for_backward(x, scale, mean)
        variance = torch.where(
            rate > 0, rate**-2, 0.0
        )  # for a channel of one value torch says a rate of 0, not infinity
        return torch.addcmul(shift, x, scale), mean, variance

    @staticmethod
    def backward(
        ctx: Any, output: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        x, scale, found = ctx.saved_tensors
        count = x.numel() / x.shape[1]
        slope = 2 * variance / count
        offset = mean / count - slope * found
        return torch.addcmul(torch.addcmul(_wide(offset, x), x, _wide(slope, x)), output, scale), None, None


def _wide(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[channels] as it broadcasts over [batch, channels, ...]."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


@contextmanager
def watched(network: nn.Module) -> Iterator[Callable[[], list[tuple[_BatchNorm, Moments]]]]:
    """While the block runs, calling the value gives the batch norms that ran since the last call, each with the moments
    of its input; in order, with gradients. The network is in eval mode.
    """
    seen: list[tuple[_BatchNorm, Moments]] = []

    def run(module: _BatchNorm, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = remembered(module)
        scale = 1 / deviation if module.weight is None else module.weight.detach() / deviation
        shift = -mean * scale if module.bias is None else module.bias.detach() - mean * scale
        y, found, variance = _Normalised.apply(x, _wide(scale, x), _wide(shift, x))  # type: ignore[no-untyped-call]
        seen.append((module, Moments(x.numel() // x.shape[1], found, variance)))
        made: torch.Tensor = y
        return made

    def taken() -> list[tuple[_BatchNorm, Moments]]:
        found = list(seen)
        seen.clear()
        return found

    watched_now = batch_norms(network)
    for module in watched_now:
        module.forward = MethodType(run, module)  # type: ignore[method-assign]
    try:
        yield taken
    finally:
        for module in watched_now:
            del module.forward


def remembered(module: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, deviation) [channels] that the module keeps of the data it was trained on."""
    assert module.running_mean is not None and module.running_var is not None
    return module.running_mean.detach(), torch.sqrt(module.running_var.detach() + module.eps)
