"""Most of an image is hidden: the student makes it up, and agrees on the rest with a teacher that runs in part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, normalize

from edgekd.errors import UserError
from edgekd.training.compared import Masked
from edgekd.training.features import aligned, regressor, wide

__all__ = ["MaskedPartial"]

WIDTH = 64


class _Decoder(nn.Module):
    """From the student's features to the teacher's channels, and to pixels."""

    def __init__(self, project: nn.Module, channels: int, size: tuple[int, int], image: torch.Size) -> None:
        super().__init__()
        self.image = image[2:]
        times = max(-(-whole // part) for whole, part in zip(self.image, size, strict=True))
        self.project = project
        self.pixels = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, image[1] * times**2, 1),
            nn.PixelShuffle(times),
        )

    def image_of(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Features → [batch, channels, height, width] of the inputs."""
        maps = x if x.dim() == 4 else x[:, -math.prod(size) :].mT.unflatten(2, size)
        made: torch.Tensor = self.pixels(maps)
        return made if made.shape[2:] == self.image else interpolate(made, self.image, mode="bilinear")


@dataclass(frozen=True)
class MaskedPartial:
    """mean over hidden pixels of (D s − x)² + `align` · mean over what is seen of |n(P s) − n(t)|, averaged over channels.

    s, t: the features of an image x of which a share `ratio` of all patches of `patch` × `patch` pixels, drawn anew for each, is
    zero, P a linear layer or 1 × 1 convolution; n divides a position's channels by their length; a position counts as much as of
    it is seen. D: two convolutions up to pixels, dropped after training. Both networks are run up to their modules, not further,
    and the student's running statistics do not see the hidden patches.
    Source: Bai et al. 2022 (DMAE), arXiv 2208.12256: pixels as in He et al. 2021, arXiv 2111.06377 (MAE), with its ratio, plus the
    L1 distance of intermediate features, as the authors' code normalises them, by a teacher that is partially executed. There
    hidden patches are left out of a transformer, whose decoder has eight blocks; a module of any network needs all positions,
    so that here they are zero.
    """

    wants: ClassVar[str] = "masked"
    student: str = ""
    teacher: str = ""
    patch: Annotated[int, Field(ge=1)] = 4
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    align: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    def mask(self, inputs: torch.Tensor) -> torch.Tensor:
        """[batch, 1, height, width], true where hidden: the same number of patches of each image, one at least is seen.

        Raises UserError for inputs that are no images of two patches or more.
        """
        if inputs.dim() != 4 or not inputs.is_floating_point() or max(inputs.shape[2:]) <= self.patch:
            message = f"masked_partial: inputs {list(inputs.shape)}, {inputs.dtype}, have no patches of {self.patch}"
            raise UserError(message, hint="float images [batch, channels, height, width], larger than a patch")
        rows, columns = (-(-side // self.patch) for side in inputs.shape[2:])
        count = rows * columns
        hidden = min(max(round(self.ratio * count), 1), count - 1)
        places = torch.rand(len(inputs), count).argsort(1).argsort(1) < hidden
        whole = places.view(-1, 1, rows, columns).repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        return whole[:, :, : inputs.shape[2], : inputs.shape[3]]

    def state(self, student: torch.Tensor, teacher: Masked, count: int) -> _Decoder:
        """The projector and the decoder. Raises UserError for features of different kinds, or without a grid."""
        project = regressor("masked_partial", (self.student, self.teacher), student, teacher.features)
        channels = student.shape[1] if student.dim() == 4 else student.shape[2]
        return _Decoder(project, channels, self._size(student), teacher.inputs.shape)

    def __call__(self, student: torch.Tensor, teacher: Masked, *, state: _Decoder) -> torch.Tensor:
        """Features of masked inputs, and the teacher's with what was hidden → mean over the batch."""
        ours, theirs, image = wide(student), wide(teacher.features), wide(teacher.inputs)
        hidden = teacher.hidden.to(image.dtype)
        error = (state.image_of(ours, self._size(ours)) - image).square().mean(1, keepdim=True)
        made_up = (error * hidden).sum() / hidden.sum()
        a, b = aligned("masked_partial", state.project(ours), theirs)
        size = self._size(ours), self._size(theirs)
        seen = adaptive_avg_pool2d(1 - hidden, (min(size[0][0], size[1][0]), min(size[0][1], size[1][1]))).flatten(1)
        a, b = (normalize(x[:, -seen.shape[1] :], dim=2) for x in (a, b))
        return made_up + self.align * ((a - b).abs().mean(2) * seen).sum() / seen.sum()

    def _size(self, x: torch.Tensor) -> tuple[int, int]:
        """Height and width of maps, or of the square that tokens make, a class token left out. Raises UserError for others."""
        if x.dim() == 4:
            return x.shape[2], x.shape[3]
        side = math.isqrt(x.shape[1]) if x.dim() == 3 else 0
        if side < 2 or x.shape[1] - side**2 not in (0, 1):
            message = f'masked_partial: "{self.student}" or "{self.teacher}" gives {list(x.shape)}, which is no grid'
            raise UserError(message, hint="name modules that give maps, or the tokens of square images")
        return side, side
