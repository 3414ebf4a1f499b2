"""Samples of one of the recipe's own splits, drawn without replacement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from edgekd.data import SPLITS
from edgekd.errors import UserError, nearest
from edgekd.source import Given, Source
from edgekd.student import Student
from edgekd.target import Calibration

__all__ = ["Data"]


@dataclass(frozen=True)
class Data(Source):
    """The test split is refused: it is read once, for the report."""

    def check(self, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
        if recipe.split not in SPLITS[:2]:
            hint = nearest(recipe.split, SPLITS[:2])
            raise UserError(f'calibration "{recipe.name}" reads split "{recipe.split}"', hint=hint)

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        inputs, _ = given.data().split(recipe.split)
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(recipe.seed))
        return inputs[order[: recipe.count].sort().values]
