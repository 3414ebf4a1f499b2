"""What the network is shown of images in the making: filtered, flipped, cropped, shifted. [n, channels, height, width]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample


def low_pass(images: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Gaussian low-pass filter: each frequency times exp(−D² / 2·cutoff²), D its distance from zero in cycles an image.

    Source: Kim et al. 2025, "SynQ", ICLR 2025: what noise synthesis leaves lies in high frequencies.
    """
    height, width = images.shape[2:]
    rows = torch.fft.fftfreq(height, 1 / height).unsqueeze(1)
    columns = torch.fft.rfftfreq(width, 1 / width).unsqueeze(0)
    gain = torch.exp(-(rows**2 + columns**2) / (2 * cutoff**2))
    filtered: torch.Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * gain, s=(height, width))
    return filtered


def flipped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image or, one time in two, its mirror image.

    Source: Son et al. 2024, "FYI", arXiv 2407.08113: images and their mirror images are fitted together; here each step
    draws which, at half the price.
    """
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)


def cropped(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Of each image a random part, `share` to 1 of its area and 3:4 to 4:3 in shape, stretched to its whole size."""
    n = len(images)
    area = share + (1 - share) * torch.rand(n, generator=generator)
    aspect = torch.exp((2 * torch.rand(n, generator=generator) - 1) * math.log(4 / 3))
    wide, tall = torch.sqrt(area * aspect).clamp(max=1), torch.sqrt(area / aspect).clamp(max=1)
    left, top = (2 * torch.rand(2, n, generator=generator) - 1) * (1 - torch.stack([wide, tall]))
    zero = torch.zeros(n)
    boxes = torch.stack([wide, zero, left, zero, tall, top], 1).view(n, 2, 3)
    grid = affine_grid(boxes, list(images.shape), align_corners=False)
    return grid_sample(images, grid.to(images.dtype), padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class Views:
    """How each step sees the images.

    `crop`: the smallest share of the area that the last step may see; it falls from 1, as a cosine over the steps, so that
    outlines are drawn before details (Yin, Shen 2023, "CDA", arXiv 2311.18838). 1: no crops.
    `shift`: images are made that many pixels larger on each side, each step sees another part, and the middle is kept:
    what training augmentation did, mimicked (Dikstein et al. 2024, "DGH", arXiv 2410.22110). 0: none.
    `low_pass`: cut-off in cycles an image; 0: no filter.
    """

    flips: bool = False
    crop: float = 1.0
    shift: int = 0
    low_pass: float = 0.0

    def of(self, images: torch.Tensor, done: float, generator: torch.Generator) -> torch.Tensor:
        """What a step sees when the share `done` of all steps is behind it."""
        if self.low_pass:
            images = low_pass(images, self.low_pass)
        if self.flips:
            images = flipped(images, generator)
        if self.shift:
            rows, columns = torch.randint(0, 2 * self.shift + 1, (2,), generator=generator).tolist()
            images = self._part(images, rows, columns)
        if self.crop < 1:
            smallest = self.crop + (1 - self.crop) * 0.5 * (1 + math.cos(math.pi * done))
            images = cropped(images, smallest, generator)
        return images

    def final(self, images: torch.Tensor) -> torch.Tensor:
        """What is kept: filtered, the middle."""
        if self.low_pass:
            images = low_pass(images, self.low_pass)
        return self._part(images, self.shift, self.shift) if self.shift else images

    def _part(self, images: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        height, width = (size - 2 * self.shift for size in images.shape[2:])
        return images[:, :, rows : rows + height, columns : columns + width]
