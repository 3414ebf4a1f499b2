"""The few samples of a split that stand for the rest, as the student sees them: for when few may be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from edgekd.coverage import covering, graph_cut_bins
from edgekd.data import SPLITS
from edgekd.errors import UserError, nearest
from edgekd.source import Given, Source
from edgekd.student import Student
from edgekd.synthesis.guidance import last_linear
from edgekd.target import Calibration

__all__ = ["Coreset"]

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Coreset(Source):
    """`method` "bins": evenly from bins filled by graph cut on the student's last features (Zhou et al. 2023, arXiv
    2308.10524); "probability": far apart in the student's class probabilities (Kang et al. 2025, arXiv 2506.00910); "random",
    to compare with. The choice is among `pool` samples of the split, drawn by the seed.
    """

    method: Literal["bins", "probability", "random"] = "bins"
    bins: Annotated[int, Field(ge=1)] = 8
    pool: Annotated[int, Field(ge=1)] = 4096

    def check(self, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
        if recipe.split not in SPLITS[:2]:
            hint = nearest(recipe.split, SPLITS[:2])
            raise UserError(f'calibration "{recipe.name}" reads split "{recipe.split}"', hint=hint)
        if self.pool < recipe.count:
            message = f'calibration "{recipe.name}": {recipe.count} of a pool of {self.pool} cannot be chosen'
            raise UserError(message, hint="a larger `pool`, or a smaller `count`")

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        inputs, _ = given.data().split(recipe.split)
        generator = torch.Generator().manual_seed(recipe.seed)
        pool = torch.randperm(len(inputs), generator=generator)[: self.pool]
        count = min(recipe.count, len(pool))
        if self.method == "random":
            return inputs[pool[:count].sort().values]
        features, chances = _seen(student, inputs[pool], given)
        if self.method == "probability":
            chosen = covering(chances, count, first=0)
        else:
            bins = graph_cut_bins(features, min(self.bins, count))
            shuffled = [one[torch.randperm(len(one), generator=generator)] for one in bins]
            chosen = torch.cat([one[: _share(count, len(bins), i)] for i, one in enumerate(shuffled)])
        return inputs[pool[chosen].sort().values]


def _share(count: int, bins: int, index: int) -> int:
    """How many of `count` come from bin `index`.

    >>> [_share(10, 4, i) for i in range(4)]
    [3, 3, 2, 2]
    """
    return count // bins + (index < count % bins)


def _seen(student: Student, inputs: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into the last linear layer (or, without one, the logits), flattened, and the class probabilities."""
    network = student.network()
    features, chances = [], []
    with torch.no_grad(), last_linear(network) as linear, given.progress.task("coreset", len(inputs)) as task:
        for batch in inputs.split(BATCH):
            logits = network(batch)
            features.append((linear[0][1] if linear else logits).flatten(1))
            chances.append(logits.softmax(1))
            task.advance(len(batch))
    return torch.cat(features), torch.cat(chances)
