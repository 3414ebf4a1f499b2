"""Samples of one of the recipe's own splits, drawn without replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from edgekd.data import SPLITS, Dataset
from edgekd.errors import UserError, nearest
from edgekd.source import Source
from edgekd.student import Student
from edgekd.target import Calibration

__all__ = ["Data"]


@dataclass(frozen=True)
class Data(Source):
    """The test split is refused: it is read once, for the report."""

    def inputs(self, student: Student, data: Callable[[], Dataset], recipe: Calibration) -> torch.Tensor:
        if recipe.split not in SPLITS[:2]:
            hint = nearest(recipe.split, SPLITS[:2])
            raise UserError(f'calibration "{recipe.name}" reads split "{recipe.split}"', hint=hint)
        inputs, _ = data().split(recipe.split)
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(recipe.seed))
        return inputs[order[: recipe.count].sort().values]
