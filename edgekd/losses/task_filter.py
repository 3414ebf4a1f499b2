"""Filters learn what of the features matters to the task, and the student follows the teacher in that alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from edgekd.training.features import aligned, tokens, wide

__all__ = ["TaskFilter"]


class _Filter(nn.Module):
    """A linear filter for each position, and a classifier of their mean that shows it what matters."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.filter, self.classifier = nn.Linear(channels, width), nn.Linear(width, classes)

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of [batch, positions, channels]; nothing flows on to them."""
        return cross_entropy(self.classifier(self.filter(x.detach()).mean(1)), labels)


@dataclass(frozen=True)
class TaskFilter:
    """Mean of (F s − F' t)², with F, F' linear filters of s and t to `width` channels; before that, what teaches the filters.

    In the first `warmup` of the training each filter learns, with a classifier behind it, to tell the labels from its features,
    and the student learns nothing by this loss. Then the teacher's filter stays as it is, the student's goes on. For several
    layers, name the loss several times.
    Source: Liang et al. 2023 (TED), arXiv 2210.01351, stages I and II, with the authors' code's mean squared error. There stage I
    is a training of its own, before which the student has been fine-tuned; here it is the beginning of one training.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("labels", "progress")
    student: str = ""
    teacher: str = ""
    width: Annotated[int, Field(ge=1)] = 64
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def classifiers(self, student: torch.Tensor, teacher: torch.Tensor, classes: int) -> nn.ModuleList:
        """The student's filter and the teacher's, each with its classifier."""
        return nn.ModuleList(_Filter(tokens(x).shape[2], self.width, classes) for x in (student, teacher))

    def __call__(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        *,
        labels: torch.Tensor,
        progress: float,
        classifiers: nn.ModuleList,
    ) -> torch.Tensor:
        """Features of both, of as many positions or two maps, labels [batch] → mean over the batch."""
        ours, theirs = aligned("task_filter", wide(student), wide(teacher))
        own, other = classifiers
        assert isinstance(own, _Filter) and isinstance(other, _Filter)
        if progress < self.warmup:
            return own.loss(ours, labels) + other.loss(theirs, labels) + 0.0 * ours.sum()
        return mse_loss(own.filter(ours), other.filter(theirs).detach())
