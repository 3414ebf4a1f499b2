"""Images that the teacher is sure of and the student agrees on: for a student without batch norm; no data is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cosine_similarity, kl_div, log_softmax, softmax

from edgekd.source import Given, Source
from edgekd.student import Student
from edgekd.synthesis.canvas import Bounds, Canvas, Pixels
from edgekd.synthesis.guidance import Guidance, classes_for, last_linear, of_class
from edgekd.synthesis.optimise import Synthesis
from edgekd.synthesis.shapes import floating, trainable_teacher
from edgekd.target import Calibration
from edgekd.training.train import derive

__all__ = ["Teacher"]


@dataclass(frozen=True, kw_only=True)
class Teacher(Source):
    """Pixels trained from noise, from evenly drawn wished classes. Weighted, of the teacher's outputs: `confidence`, the
    cross-entropy with the wished class; `features`, what goes into its last linear layer points where that layer's row of the
    wished class points (1 − cosine), and its batch-norm statistics, if it has any, are met (Yin et al. 2020, "DeepInversion",
    arXiv 1912.08795); `agreement`: KL(teacher ‖ student); `smooth`: total variation of neighbouring pixels.
    """

    synthetic: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 200
    batch: Annotated[int, Field(ge=2)] = 256
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    confidence: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    features: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    agreement: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    smooth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1

    def asks_teacher(self) -> bool:
        return True

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        shape, network = floating(student, recipe), trainable_teacher(given, recipe)
        bounds = Bounds.of(student.signature["preprocessing"], shape[0]) if len(shape) == 3 else None

        def begin(size: Sequence[int], seed: int) -> Canvas:
            return Pixels(size, seed, self.lr, bounds)

        classes = student.signature["outputs"][0]["shape"][1]
        targets = classes_for(recipe.count, classes, derive(recipe.seed, "classes"))
        making = Synthesis(
            network=network,
            begin=begin,
            steps=self.steps,
            batch=self.batch,
            seed=recipe.seed,
            statistics=self.features,
            guidance=_Sure(self, targets, student.network().requires_grad_(False)),
        )
        return making.make(recipe.count, shape, given.progress, given.work, f"{recipe.source}: {recipe.count} inputs")


@final
class _Sure(Guidance):
    """The weighted terms of a `Teacher` source, but for the statistics."""

    def __init__(self, weights: Teacher, targets: torch.Tensor, student: nn.Module) -> None:
        self.weights, self.targets, self.student = weights, targets, student
        self.linear: list[tuple[nn.Linear, torch.Tensor]] = []

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        with last_linear(network) as self.linear:
            yield

    def loss(self, shown: torch.Tensor, logits: torch.Tensor, part: slice) -> torch.Tensor:
        weights, targets = self.weights, self.targets[part]
        total = weights.confidence * of_class(logits, targets)
        if weights.features and self.linear and self.linear[0][0].out_features == logits.shape[1]:
            module, features = self.linear[0]
            total = total + weights.features * (1 - cosine_similarity(features, module.weight[targets])).mean()
        if weights.agreement:
            ours, theirs = log_softmax(self.student(shown), 1), softmax(logits, 1)
            total = total + weights.agreement * kl_div(ours, theirs, reduction="batchmean")
        if weights.smooth and shown.dim() == 4:
            total = total + weights.smooth * variation(shown)
        return total


def variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels, down and across, of [n, channels, height, width].

    Source: Rudin, Osher, Fatemi 1992, doi 10.1016/0167-2789(92)90242-F, in its anisotropic form, as a mean.
    """
    down, across = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return sum((d.mean() for d in (down, across) if d.numel()), start=torch.zeros(()))
