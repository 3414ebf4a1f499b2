"""Each pass learns from the pass before, anchored to the teacher and to the labels so that nothing drifts away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy, one_hot, softmax

from edgekd.training.bank import Past

__all__ = ["Recursive"]


@dataclass(frozen=True)
class Recursive:
    """−Σ_c y_c log q_c, with q = softmax(student), y = α · label + (1 − α) · m, and the meta-teacher m = β · p + (1 − β) · r.

    p = softmax(teacher), r: what the student said when it last saw the sample (p, while it has not); α: `alpha`, β: `anchor`. A
    generation is one pass over the data. By convexity KL(p ‖ m) ≤ (1 − β) · KL(p ‖ r), so that generations which learn their
    meta-teacher come nearer to the teacher by that factor each. It is not zero where the student equals the teacher, and it
    remembers [training samples, classes], which each checkpoint holds too.
    Source: Flouro, Chadwick 2026, arXiv 2601.13100, recursive meta-distillation with anchors, in the operator that mixes
    probabilities; Borup, Andersen 2021, arXiv 2102.13088, the recursion with weighted labels and their best weight (`best_alpha`).
    """

    wants: ClassVar[str] = "logits"
    also: ClassVar[tuple[str, ...]] = ("labels", "samples")
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.35
    anchor: Annotated[float, Field(ge=0, le=1)] = 0.5

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> Past:
        """Room for one answer to each training sample."""
        return Past(count, student.shape[1])

    def __call__(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor,
        *,
        labels: torch.Tensor,
        samples: torch.Tensor,
        state: Past,
    ) -> torch.Tensor:
        """Logits [batch, classes] of both, labels and samples [batch] → mean over the batch, in nats."""
        p = softmax(teacher, dim=1)
        past = state.recalled(samples, p)
        target = torch.lerp(torch.lerp(past, p, self.anchor), one_hot(labels, p.shape[1]).to(p.dtype), self.alpha)
        state.keep(samples, student)
        return cross_entropy(student, target)

    @staticmethod
    def best_alpha(by_labels: torch.Tensor, by_teacher: torch.Tensor, targets: torch.Tensor) -> float:
        """The α of least squared error on held-out samples, without a search: clip(⟨y − f₀, f₁ − f₀⟩ / ‖f₁ − f₀‖², 0, 1).

        f₁, f₀ [n, classes]: what two students say, one trained with `alpha` 1, one with 0; y: targets [n], as one-hot rows. It is
        exact where what is learned is linear in its targets, as in kernel ridge regression, and an estimate for networks.
        """
        f1, f0 = by_labels.double(), by_teacher.double()
        apart = f1 - f0
        size = apart.square().sum()
        if not size > 0:
            return 1.0
        y = one_hot(targets, f1.shape[1]).double()
        return float((((y - f0) * apart).sum() / size).clamp(0, 1))
