"""Heads at inner layers learn from the labels and the last layer; they are dropped, and the student has taught itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

from edgekd.errors import UserError
from edgekd.training.features import Pool, tokens, vectors, wide

__all__ = ["AuxiliaryHeads"]


class _Head(nn.Module):
    """A bottleneck to the deepest layer's number of channels, then a linear classifier."""

    def __init__(self, example: torch.Tensor, width: int, classes: int) -> None:
        super().__init__()
        channels = tokens(example).shape[2]
        if example.dim() == 4:
            each = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            self.bottleneck = nn.Sequential(each, nn.Conv2d(channels, width, 1), nn.ReLU(), Pool())
        else:
            self.bottleneck = nn.Sequential(Pool(), nn.Linear(channels, width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, width] and logits [batch, classes]."""
        found = self.bottleneck(x)
        return found, self.classifier(found)


@dataclass(frozen=True)
class AuxiliaryHeads:
    """Mean over heads i of (1 − α) · CE(q_i, label) + α · τ² · KL(p ‖ q_i) + `hint` · mean (f_i − F)².

    A head at each of the modules `student` but the last; q_i: its softmax, at τ where compared with p, that of the student's own
    logits; f_i: what its classifier sees, F: the features of the last module, averaged over positions. Neither p nor F has a
    gradient. The student's own head is not in it: name cross_entropy too. No teacher is needed.
    Source: Zhang et al. 2019, arXiv 1905.08094 (Be Your Own Teacher), its three losses, with means for sums; Dahri et al. 2025
    (LSSKD), arXiv 2506.07055, adds labels that also tell how an input was rotated, which are not here. The weights are ours.
    """

    wants: ClassVar[str] = "self"
    also: ClassVar[tuple[str, ...]] = ("own",)
    student: tuple[str, ...] = ()
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.3
    hint: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.03
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0

    def __post_init__(self) -> None:
        if len(self.student) == 1:
            message = f'auxiliary_heads: student names "{self.student[0]}" alone'
            raise UserError(message, hint="two modules or more: a head at each but the last, which is the deepest")

    def classifiers(self, student: list[torch.Tensor], teacher: torch.Tensor, classes: int) -> nn.ModuleList:
        """One for each module but the last."""
        width = tokens(student[-1]).shape[2]
        return nn.ModuleList(_Head(x, width, classes) for x in student[:-1])

    def __call__(
        self, student: list[torch.Tensor], teacher: torch.Tensor, *, own: torch.Tensor, classifiers: nn.ModuleList
    ) -> torch.Tensor:
        """Features of the student, targets [batch], its logits [batch, classes] → mean over the batch."""
        deepest = vectors(wide(student[-1])).detach()
        p = log_softmax(wide(own).detach() / self.temperature, dim=1)
        terms = []
        for head, x in zip(classifiers, student[:-1], strict=True):
            found, logits = head(wide(x))
            q = log_softmax(logits / self.temperature, dim=1)
            apart = self.temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)
            answers = (1 - self.alpha) * cross_entropy(logits, teacher) + self.alpha * apart
            terms.append(answers + self.hint * mse_loss(found, deepest))
        return torch.stack(terms).mean()
