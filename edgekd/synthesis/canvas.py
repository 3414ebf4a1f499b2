"""What is trained while images are made: the pixels themselves, or latents together with a small generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import nn
from torch.nn.functional import interpolate, leaky_relu

WIDEST_START: Final = 14
"""A generator's first feature map is at most that large a side: its linear layer grows with the square of it."""


@dataclass(frozen=True)
class Bounds:
    """The lowest and the highest value that preprocessing can give, a channel: [channels, 1, 1] each."""

    low: torch.Tensor
    high: torch.Tensor

    @staticmethod
    def of(preprocessing: Mapping[str, Any], channels: int) -> Bounds | None:
        """From `scale`, `mean` and `std` of the data's preprocessing, for pixels 0 to 255; None where they are not given."""
        if not {"mean", "std"} <= set(preprocessing):
            return None
        white = 255 * float(preprocessing.get("scale", 1 / 255))
        mean, std = (_each(preprocessing[name], channels) for name in ("mean", "std"))
        return Bounds(-mean / std, (white - mean) / std)

    def reflected(self, images: torch.Tensor) -> torch.Tensor:
        """Values beyond an end mirrored back inside, then held there.

        Source: Dikstein et al. 2024, "DGH", arXiv 2410.22110 (clipping by reflection, in the code published with it).
        """
        held = torch.maximum(torch.minimum(images, self.high), self.low)
        return torch.maximum(torch.minimum(2 * held - images, self.high), self.low)


def _each(value: Any, channels: int) -> torch.Tensor:
    values = torch.tensor(value, dtype=torch.float32).flatten()
    return values.expand(channels).view(channels, 1, 1)


class Canvas(ABC):
    """One batch of images in the making. Its random beginning comes from its seed alone."""

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer, each with its learning rate."""

    @abstractmethod
    def images(self) -> torch.Tensor:
        """[batch, channels, height, width], with gradients."""

    def settle(self) -> None:
        """After each step: bring back what must not leave its range."""


@final
class Pixels(Canvas):
    """The pixels are the parameters; they begin as standard normal noise."""

    def __init__(self, shape: Sequence[int], seed: int, lr: float, bounds: Bounds | None) -> None:
        noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        self.values = noise if bounds is None else bounds.reflected(noise)
        self.values.requires_grad_()
        self.lr, self.bounds = lr, bounds

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.values], "lr": self.lr}]

    def images(self) -> torch.Tensor:
        return self.values

    @torch.no_grad()
    def settle(self) -> None:
        if self.bounds is not None:
            self.values.copy_(self.bounds.reflected(self.values))


@final
class Latents(Canvas):
    """A latent vector an image, and a generator of the batch's own: both are trained, both begin at random.

    Source: Jeon et al. 2023, "Genie", arXiv 2212.04780 (GENIE-D).
    """

    def __init__(
        self,
        shape: Sequence[int],
        seed: int,
        lr: tuple[float, float],
        size: tuple[int, int],
        bounds: Bounds | None,
    ) -> None:
        """`lr` of latents and generator; `size`: length of a latent, channels of the generator."""
        batch, channels, height, width = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.latents = torch.randn(batch, size[0]).requires_grad_()
            self.generator = Generator((channels, height, width), size[0], size[1], bounds)
        self.lr = lr

    def groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [self.latents], "lr": self.lr[0]},
            {"params": list(self.generator.parameters()), "lr": self.lr[1]},
        ]

    def images(self) -> torch.Tensor:
        made: torch.Tensor = self.generator(self.latents)
        return made


@final
class Generator(nn.Module):
    """Latents [batch, length] → images [batch, channels, height, width], batch norm always on the batch's own statistics.

    A linear layer to a small map, then doubled, convolved and normalised until it has the image's size: the form of Jeon et
    al. 2023 (two doublings), with more doublings for larger images. Where the range of pixels is known the last step is a
    sigmoid onto that range and a little beyond, cut, after a batch norm that trains; else, as there, a hyperbolic tangent,
    normalised to mean 0 and deviation 1.
    """

    def __init__(self, shape: tuple[int, int, int], length: int, width: int, bounds: Bounds | None) -> None:
        super().__init__()
        channels, *size = shape
        self.sizes = [tuple(size)]
        while len(self.sizes) < 3 or max(self.sizes[0]) > WIDEST_START:
            self.sizes.insert(0, tuple(-(-side // 2) for side in self.sizes[0]))
        widths = [max(width >> i, 8) for i in range(len(self.sizes) - 1)]
        self.linear = nn.Linear(length, width * self.sizes[0][0] * self.sizes[0][1])
        self.start = nn.BatchNorm2d(width)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, [*widths[1:], channels], strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths[1:])
        self.last = nn.BatchNorm2d(channels, affine=bounds is not None)
        self.bounds = bounds
        if bounds is not None:  # begin with pixels of mean 0 or so, spread over the range
            zero = (-bounds.low / (bounds.high - bounds.low)).flatten().clamp(0.01, 0.99)
            nn.init.constant_(self.last.weight, 2.0)
            self.last.bias.data.copy_(torch.logit(zero))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        x = self.linear(latents).unflatten(1, (-1, *self.sizes[0]))
        x = self.start(x.contiguous(memory_format=torch.channels_last))
        for index, (conv, size) in enumerate(zip(self.convs, self.sizes[1:], strict=True)):
            x = conv(interpolate(x, size))
            if index < len(self.norms):
                x = leaky_relu(self.norms[index](x), 0.2)
        if self.bounds is None:
            made: torch.Tensor = self.last(torch.tanh(x))
            return made
        share = (1.1 * torch.sigmoid(self.last(x)) - 0.05).clamp(0, 1)  # both ends are reached
        return self.bounds.low + (self.bounds.high - self.bounds.low) * share
