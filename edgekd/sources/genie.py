"""Images from latents and a small generator, trained on the student's batch-norm statistics; no data is read."""

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
from edgekd.synthesis.canvas import Bounds, Canvas, Latents
from edgekd.synthesis.guidance import Wishes, classes_for
from edgekd.synthesis.optimise import Synthesis
from edgekd.synthesis.shapes import floating, image_like, trainable_teacher
from edgekd.synthesis.views import Views
from edgekd.target import Calibration
from edgekd.training.train import derive

__all__ = ["Genie"]


@dataclass(frozen=True, kw_only=True)
class Genie(Source):
    """Each batch of `batch` images is made by a generator of its own, trained with their latents for `steps` steps.

    Source: Jeon et al. 2023, "Genie", arXiv 2212.04780 (GENIE-D), with its swing convolutions (`swing`); fewer steps than
    its 4,000, the learning rates `latent_lr` and `generator_lr` falling as a cosine. `latents` numbers an image; `channels`:
    the generator's widest map. Options from later papers, each off unless set, told where they are implemented:
    `low_pass` (SynQ; cut-off in cycles an image), `label` and `easy` (the weight of a wished class; only images of which the
    network is surer than 1 − `easy` follow it, the others the teacher's soft label), `activation` (activation maps of
    student and teacher alike), `joint`, `shift`, `flips` and `stretch` (DGH), `crop` (CDA).
    """

    synthetic: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=2)] = 128
    latents: Annotated[int, Field(ge=1)] = 256
    channels: Annotated[int, Field(ge=8)] = 64
    latent_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    generator_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    swing: bool = True
    label: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    easy: Annotated[float, Field(gt=0, le=1)] = 1.0
    stretch: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    activation: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    joint: bool = False
    flips: bool = False
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    shift: Annotated[int, Field(ge=0)] = 0
    low_pass: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def asks_teacher(self) -> bool:
        return bool(self.activation or (self.label and self.easy < 1))

    def check(self, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
        statistics.require(network(), recipe)

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        network, shape = student.network(), floating(student, recipe)
        statistics.require(network, recipe)
        image_like(shape, recipe)
        bounds = Bounds.of(student.signature["preprocessing"], shape[0])

        def begin(size: Sequence[int], seed: int) -> Canvas:
            rates = self.latent_lr, self.generator_lr
            return Latents(size, seed, rates, (self.latents, self.channels), bounds)

        classes = student.signature["outputs"][0]["shape"][1]
        wishes = Wishes(
            targets=classes_for(recipe.count, classes, derive(recipe.seed, "classes")),
            label=self.label,
            easy=self.easy,
            spread=self.stretch,
            activation=self.activation,
            teacher=trainable_teacher(given, recipe) if self.asks_teacher() else None,
        )
        making = Synthesis(
            network=network,
            begin=begin,
            steps=self.steps,
            batch=self.batch,
            seed=recipe.seed,
            views=Views(flips=self.flips, crop=self.crop, shift=self.shift, low_pass=self.low_pass),
            swing=self.swing,
            joint=self.joint,
            guidance=wishes if self.label or self.stretch or self.activation else None,
        )
        return making.make(recipe.count, shape, given.progress, given.work, f"{recipe.source}: {recipe.count} images")
