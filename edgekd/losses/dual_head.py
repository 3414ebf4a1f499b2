"""A head for the labels and one for the teacher, which do not pull at the same weights; the student has their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd.features import tokens, vectors, wide

__all__ = ["DualHead"]


@dataclass(frozen=True)
class DualHead:
    """`balance` · CE(softmax z_1, label) + (1 − `balance`) · τ² · KL(softmax(teacher / τ) ‖ softmax(z_2 / τ)).

    z_1, z_2: two linear heads of the same features φ. The student's logits are their combination at all times,
    z = α z_1 + (1 − α) z_2 / β: its head is W, and with a further matrix D, which is dropped after training,

        z_1 = (W + a D) φ,  z_2 = β (W − D / a) φ,  a = √((1 − α) / α)

    so that what is validated and exported is one head, and nothing remains to be merged. That a makes a step of gradient descent
    by one loss leave the other's head where it is: with W and D the two are trained as if they stood alone, at lr / α and
    lr · β² / (1 − α): exactly so by gradient descent, nearly by Adam, which scales each weight apart. A sample without a label
    counts in the second term only. `student` names the layer that makes the logits.
    Source: Kang et al. 2025 (DHO), arXiv 2505.07675, the losses and their balance, α, and β, a temperature of the second head. It
    combines probabilities, α softmax z_1 + (1 − α) softmax(z_2 / β), for which two heads must be kept; combined logits, their
    geometric mean, are one linear layer. Its head for a teacher of vision and language, on normalised φ, is not here.
    """

    wants: ClassVar[str] = "head"
    also: ClassVar[tuple[str, ...]] = ("targets", "own")
    student: str = ""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> nn.Linear:
        """D, and the same of the bias; zero, so that both heads begin as the student's."""
        apart = nn.Linear(tokens(student).shape[2], teacher.shape[1])
        nn.init.zeros_(apart.weight)
        nn.init.zeros_(apart.bias)
        return apart

    def __call__(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        *,
        targets: torch.Tensor,
        own: torch.Tensor,
        state: nn.Linear,
    ) -> torch.Tensor:
        """What the student's head is given, logits [batch, classes] of teacher and student, targets [batch] → mean over the batch."""
        first, second = self.heads_of(wide(own), state(vectors(wide(student))))
        q = log_softmax(second / self.temperature, dim=1)
        p = log_softmax(wide(teacher) / self.temperature, dim=1)
        apart = self.temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)
        labelled = targets >= 0
        right = cross_entropy(first[labelled], targets[labelled]) if bool(labelled.any()) else 0.0 * first.sum()
        return self.balance * right + (1 - self.balance) * apart

    def heads_of(self, own: torch.Tensor, apart: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z_1 and z_2 of z = W φ and D φ."""
        a = ((1 - self.alpha) / self.alpha) ** 0.5
        return own + a * apart, self.beta * (own - apart / a)
