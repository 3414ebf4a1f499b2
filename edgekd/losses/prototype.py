"""Prototypes of the teacher's local features, and how a sample's features lie around them: the student's as the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize

from edgekd.training.features import tokens, wide

__all__ = ["Prototype"]


class _Prototypes(nn.Module):
    """The prototypes, what assigns a feature to them, what tells classes from residuals, and the student's projector."""

    def __init__(self, own: int, width: int, count: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(own, width)
        self.centres = nn.Parameter(torch.rand(count, width))
        self.assign = nn.Linear(width, count)
        self.classifier = nn.Linear(count * width, classes)

    def residuals(self, x: torch.Tensor, *, learned: bool) -> torch.Tensor:
        """[batch, positions, width] → [batch, prototypes · width], of length one; with a gradient to the prototypes if `learned`."""
        parts: list[torch.Tensor] = [self.centres, self.assign.weight, self.assign.bias]
        centres, weight, bias = parts if learned else [part.detach() for part in parts]
        x = normalize(x, dim=2)
        shares = linear(x, weight, bias).softmax(2)
        found = shares.transpose(1, 2) @ x - shares.sum(1)[:, :, None] * centres
        return normalize(normalize(found, dim=2).flatten(1), dim=1)


@dataclass(frozen=True)
class Prototype:
    """−log p(label | V t) + `transfer` · (1 − V P s · V t), with V the residuals around `prototypes` learned vectors c_k.

    V x: for each k, Σ_i a_k(x_i) (x_i − c_k) over the positions i, of length one, and all together of length one; a = softmax of a
    linear layer of x_i, which is of length one. The prototypes learn from the teacher's features alone, by a linear classifier
    of V t; the student learns to lie around them as its teacher does, by a linear projector P. Numbers of positions may differ.
    Source: Li et al. 2022 (ProC-KD), arXiv 2212.13180: prototypes learned on the teacher's features by the residual descriptor of
    Arandjelović et al. 2016, arXiv 1511.07247 (NetVLAD), equation 4, as in the authors' code, with 72 of them. That code goes on
    to add attended prototypes to the features that the student's classifier sees, also when it is used, so that its network
    grows; what is here leaves the network alone, and brings the descriptors together instead.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("labels",)
    student: str = ""
    teacher: str = ""
    prototypes: Annotated[int, Field(ge=1)] = 72
    transfer: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def classifiers(self, student: torch.Tensor, teacher: torch.Tensor, classes: int) -> _Prototypes:
        """Prototypes of the teacher's number of channels."""
        return _Prototypes(tokens(student).shape[2], tokens(teacher).shape[2], self.prototypes, classes)

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, *, labels: torch.Tensor, classifiers: _Prototypes
    ) -> torch.Tensor:
        """Features [batch, channels, …] of both, labels [batch] → mean over the batch."""
        ours, theirs = classifiers.project(tokens(wide(student))), tokens(wide(teacher))
        described = classifiers.residuals(theirs, learned=True)
        found = (classifiers.residuals(ours, learned=False) * described.detach()).sum(1)
        return cross_entropy(classifiers.classifier(described), labels) + self.transfer * (1 - found).mean()
