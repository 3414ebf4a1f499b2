"""Standard normal noise of the input's shape: no data at all, and no guess at what data looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgekd.errors import UserError
from edgekd.source import Given, Source
from edgekd.student import Student
from edgekd.target import Calibration

__all__ = ["Gaussian"]


@dataclass(frozen=True)
class Gaussian(Source):
    """Fits inputs that are normalised to mean 0 and deviation 1."""

    synthetic: ClassVar[bool] = True

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        example = student.example(recipe.count)
        if not example.is_floating_point():
            raise UserError(
                f'calibration "{recipe.name}": noise cannot stand in for {example.dtype} inputs',
                hint='use source = "data"',
            )
        return torch.randn(example.shape, generator=torch.Generator().manual_seed(recipe.seed))
