"""Images whose batch-norm inputs have the mean and deviation that the student remembers; no data is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from edgekd.source import Given, Source
from edgekd.student import Student
from edgekd.synthesis import statistics
from edgekd.synthesis.canvas import Bounds, Canvas, Pixels
from edgekd.synthesis.guidance import Wishes, classes_for
from edgekd.synthesis.optimise import Synthesis
from edgekd.synthesis.shapes import floating, image_like
from edgekd.synthesis.views import Views
from edgekd.target import Calibration
from edgekd.training.train import derive

__all__ = ["BnStatistics"]


@dataclass(frozen=True, kw_only=True)
class BnStatistics(Source):
    """Pixels trained by Adam from noise: Cai et al. 2020, "ZeroQ", arXiv 2001.00281, equation 3, and what came after it.

    `steps` for each batch of `batch` images, the learning rate `lr` falling as a cosine. Few large steps, since they were no worse
    (a Fashion-MNIST student at 8 bits, one seed, KL to float · 10⁴: 60 steps at 0.4 1.8, 150 at 0.1 3.5, real samples 1.9).
    `label` weighs the cross-entropy with evenly drawn classes, `stretch` the spread of the outputs (Dikstein 2024). `joint` fits
    the statistics of the whole set, not of each batch (the same). `flips`, `crop` (below 1: crops down to that share of the area), `shift`
    and `low_pass` are ways of looking, told in `edgekd/synthesis/views.py`; they need images [channels, height, width].
    """

    synthetic: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 120
    batch: Annotated[int, Field(ge=2)] = 256
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.4
    label: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    stretch: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    joint: bool = False
    flips: bool = False
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    shift: Annotated[int, Field(ge=0)] = 0
    low_pass: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def check(self, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
        statistics.require(network(), recipe)

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        network, shape = student.network(), floating(student, recipe)
        statistics.require(network, recipe)
        views = Views(flips=self.flips, crop=self.crop, shift=self.shift, low_pass=self.low_pass)
        if views != Views():
            image_like(shape, recipe)
        bounds = Bounds.of(student.signature["preprocessing"], shape[0]) if len(shape) == 3 else None

        def begin(size: Sequence[int], seed: int) -> Canvas:
            return Pixels(size, seed, self.lr, bounds)

        classes = student.signature["outputs"][0]["shape"][1]
        targets = classes_for(recipe.count, classes, derive(recipe.seed, "classes"))
        guided = self.label or self.stretch
        making = Synthesis(
            network=network,
            begin=begin,
            steps=self.steps,
            batch=self.batch,
            seed=recipe.seed,
            views=views,
            joint=self.joint,
            guidance=Wishes(targets=targets, label=self.label, spread=self.stretch) if guided else None,
        )
        return making.make(recipe.count, shape, given.progress, given.work, f"{recipe.source}: {recipe.count} inputs")
