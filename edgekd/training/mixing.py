"""Mixed samples: some images or texts of a view are blended with or pasted into each other, and the teacher says what they are now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from edgekd.errors import UserError
from edgekd.training.projection import projected

if TYPE_CHECKING:
    from edgekd.teacher import Teacher

Pair = tuple[torch.Tensor, torch.Tensor]


def mixed(
    kind: str, inputs: torch.Tensor, targets: torch.Tensor, share: float, seed: int, teacher: Callable[[], Teacher]
) -> Pair:
    """inputs [n, ...] and targets [n] of which `share` are mixed, drawn with `seed`; the others are as they were.

    "mixup": λ · x_i + (1 − λ) · x_j, λ uniform: Zhang et al. 2018, arXiv 1710.09412, with α = 1.
    "cutmix": a box of x_j in x_i, of 1 − λ of its area, λ uniform: Yun et al. 2019, arXiv 1905.04899, section 3.1.
    "selfmix": a box of x_i from another of its places, as mild as a soft label needs it: Shen 2023, arXiv 2312.17473 (FerKD), whose
    mixing stays within one image; what is pasted where is our reading.
    "project": tokens between those of x_i and x_j in the teacher's embedding: `edgekd.training.projection.projected`.

    A sample made of two classes has no label (−1), so that losses on labels see the others only and the teacher's answer to the
    mixture is what is learned; one made of two of a class keeps its own. Targets that are numbers are mixed by what each
    has of the area. Few mixed samples help a student most: Choi et al. 2023, arXiv 2211.03946, partial mixup.
    Raises UserError for inputs that cannot be mixed so: boxes are of images [n, channels, height, width], tokens [n, length].
    """
    if kind == "none":
        return inputs, targets
    generator = torch.Generator().manual_seed(seed)
    count = max(round(share * len(inputs)), 1)
    chosen = torch.randperm(len(inputs), generator=generator)[:count]
    partner = torch.randint(len(inputs), (count,), generator=generator)
    kept = torch.rand(count, generator=generator)
    ours, theirs = inputs[chosen], inputs[partner]
    if kind == "mixup":
        if not inputs.is_floating_point():
            message = f'mix = "mixup" blends numbers, and the inputs are {inputs.dtype}'
            raise UserError(message, hint='mix = "project" for tokens')
        weight = kept.view(-1, *[1] * (inputs.dim() - 1)).to(inputs.dtype)
        found = weight * ours + (1 - weight) * theirs
    elif kind == "project":
        if inputs.dim() != 2 or inputs.is_floating_point():
            message = f'mix = "project" makes other tokens, and the inputs are {list(inputs.shape[1:])}, {inputs.dtype}'
            raise UserError(message, hint='tokens [n, length], as int64 or int32, or mix = "mixup"')
        ends = inputs[:, -1].mode().values
        found, kept = projected(ours, theirs, teacher().embeddings(inputs[:2]), int(ends), generator)
    else:
        if inputs.dim() != 4:
            message = f'mix = "{kind}" pastes boxes, and the inputs are {list(inputs.shape[1:])}'
            raise UserError(message, hint='images of [channels, height, width], or mix = "mixup"')
        box = _boxes(kept, inputs.shape[2], inputs.shape[3], generator)
        kept = 1 - box.flatten(1).float().mean(1)
        if kind == "selfmix":
            theirs = _moved(ours, generator)
        found = torch.where(box[:, None], theirs, ours)
    inputs, targets = inputs.clone(), targets.clone()
    inputs[chosen] = found
    if kind != "selfmix":
        own, other = targets[chosen], targets[partner]
        if targets.is_floating_point():
            weight = kept.view(-1, *[1] * (targets.dim() - 1)).to(targets.dtype)
            targets[chosen] = weight * own + (1 - weight) * other
        else:
            targets[chosen] = torch.where(own == other, own, -1)
    return inputs, targets


def _boxes(kept: torch.Tensor, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """[n, height, width], true within a box of 1 − kept [n] of the area, as much of it as lies in the image."""

    def inside(side: int) -> torch.Tensor:
        centre = torch.rand(len(kept), 1, generator=generator) * side
        return (torch.arange(side) + 0.5 - centre).abs() <= side * (1 - kept[:, None]).sqrt() / 2

    return inside(height)[:, :, None] & inside(width)[:, None, :]


def _moved(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images [n, channels, height, width], each shifted by an amount of its own, what leaves on one side coming in on the other."""
    n, _, height, width = x.shape
    rows, columns = (
        (torch.arange(side) + torch.randint(side, (n, 1), generator=generator)) % side for side in (height, width)
    )
    shifted = x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return shifted.permute(0, 3, 1, 2)
