"""A head for the labels and one for the teacher, which do not pull at the same weights; the student has their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, linear, log_softmax

from edgekd.errors import UserError
from edgekd.training.features import vectors, wide

__all__ = ["DualHead"]


class _Halves(nn.Module):
    """Two weights (or biases), and what they are together: the student's own, where both heads begin as its head."""

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.alpha * first + (1 - self.alpha) / self.beta * second

    def right_inverse(self, whole: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return whole.clone(), self.beta * whole


@dataclass(frozen=True)
class DualHead:
    """`balance` · CE(softmax z_1, label) + (1 − `balance`) · τ² · KL(softmax(teacher / τ) ‖ softmax(z_2 / τ)).

    z_1 = W_1 φ and z_2 = W_2 φ: two linear heads of the same features. While it trains, the student's own head is their
    combination, W = α W_1 + (1 − α) W_2 / β, so that what is validated and kept is one head; after training W alone is left.
    A sample without a label counts in the second term only. `student` names the layer that makes the logits.
    Source: Kang et al. 2025 (DHO), arXiv 2505.07675, the losses and their balance, α, and β, a temperature of the second head. It
    combines probabilities, α softmax z_1 + (1 − α) softmax(z_2 / β), for which both heads must be kept; combined logits, their
    geometric mean, are one linear layer. Its head for a teacher of vision and language, on normalised φ, is not here.
    """

    wants: ClassVar[str] = "head"
    also: ClassVar[tuple[str, ...]] = ("targets", "layer")
    student: str = ""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0

    def divided(self) -> nn.Module:
        """What the layer's weight and bias are parametrised by while it trains."""
        return _Halves(self.alpha, self.beta)

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, *, targets: torch.Tensor, layer: nn.Module
    ) -> torch.Tensor:
        """What the head is given [batch, channels, …], logits [batch, classes], targets [batch] → mean over the batch."""
        first, second = self.answers(vectors(wide(student)), layer)
        q = log_softmax(second / self.temperature, dim=1)
        p = log_softmax(wide(teacher) / self.temperature, dim=1)
        apart = self.temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)
        labelled = targets >= 0
        right = cross_entropy(first[labelled], targets[labelled]) if bool(labelled.any()) else 0.0 * first.sum()
        return self.balance * right + (1 - self.balance) * apart

    def answers(self, x: torch.Tensor, layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """z_1 and z_2 [batch, classes] of features [batch, channels]; of a layer that is not divided yet, as if it were.

        Raises UserError for a layer that is not linear in the channels.
        """
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or layer.weight[0].numel() != x.shape[1]:
            message = f'dual_head: the student\'s "{self.student}" is a {type(layer).__name__}, no linear layer of {x.shape[1]} channels'
            raise UserError(message, hint="name the linear layer, or the 1 × 1 convolution, that makes the logits")
        weights = self._halves(layer, "weight")
        biases = self._halves(layer, "bias") if isinstance(layer.bias, torch.Tensor) else (None, None)
        first, second = (linear(x, w.flatten(1), b) for w, b in zip(weights, biases, strict=True))
        return first, second

    def _halves(self, layer: nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        if nn.utils.parametrize.is_parametrized(layer, name):
            first, second = layer.get_submodule(f"parametrizations.{name}").parameters()
            return first, second
        whole = getattr(layer, name)
        return whole, self.beta * whole
