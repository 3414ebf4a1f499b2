"""Several teachers as one: the weighted mean of what they say, or the surest of them for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch.nn.functional import log_softmax

from edgekd.errors import EdgekdError, UserError
from edgekd.teacher import Teacher

__all__ = ["Ensemble"]

TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Ensemble(Teacher):
    """log Σ_k w_k p_k with p_k = softmax of teacher k: `mean` "probabilities"; or Σ_k w_k log p_k: "logits".

    The weights sum to one for each sample. By "shares" they are as the `shares` given (equal ones if none are), by "entropy" these
    divided by the entropy of p_k, so that the sure teachers count more; by "surest" only the teacher of least entropy counts; by
    "similarity" the shares are found before training: edgekd/members.py, by how like each teacher's task is to the labels, raised to
    `power`.
    Source: Hinton et al. 2015, arXiv 1503.02531, section 2: the arithmetic or geometric mean of an ensemble's distributions;
    Kwon et al. 2020 (ICASSP, "Adaptive knowledge distillation based on entropy"): weights that fall with the entropy.
    """

    made_from: ClassVar[str] = "teachers"
    members: tuple[Teacher, ...]
    shares: tuple[float, ...] = ()
    by: Literal["shares", "entropy", "surest", "similarity"] = "shares"
    mean: Literal["probabilities", "logits"] = "probabilities"
    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("an ensemble has no members", hint='members = [{ use = "onnx", weights = "a.onnx" }, …]')
        if self.by == "similarity" and not self.shares:
            message = (
                "an ensemble by similarity has its shares from the data: only a recipe's [teacher] itself can be one"
            )
            raise UserError(message, hint='by = "shares", "entropy" or "surest"')
        least = 0 if self.by == "similarity" else 1e-300
        if self.shares and (len(self.shares) != len(self.members) or not all(s >= least for s in self.shares)):
            message = f"an ensemble of {len(self.members)} teachers has the shares {list(self.shares)}"
            raise UserError(message, hint="a number above zero for each member")
        for field, known in (
            ("by", ("shares", "entropy", "surest", "similarity")),
            ("mean", ("probabilities", "logits")),
        ):
            if getattr(self, field) not in known:
                raise UserError(
                    f"an ensemble's `{field}` is {getattr(self, field)!r}", hint=f"one of {', '.join(known)}"
                )

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [batch, classes], up to a constant for each sample. Raises UserError naming a member that fails."""
        said = self.each(inputs).movedim(1, 0).contiguous()
        weights = self._weights(said)[..., None]
        return (said + weights.log()).logsumexp(0) if self.mean == "probabilities" else (weights * said).sum(0)

    @torch.no_grad()
    def each(self, inputs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of each teacher [batch, members, classes]. Raises UserError naming a member that fails."""
        answers = [self._asked(number, inputs) for number in range(len(self.members))]
        for number, answer in enumerate(answers):
            if answer.shape != answers[0].shape:
                message = f"teacher {number + 1} has {answer.shape[1]} classes, teacher 1 has {answers[0].shape[1]}"
                raise UserError(message, hint="`classes` of a member names the student's among its own")
        return torch.stack(answers, 1)

    def _asked(self, number: int, inputs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities [batch, classes] of one member."""
        whose = f"teacher {number + 1} of {len(self.members)}"
        try:
            logits = self.members[number].outputs(inputs)
        except EdgekdError as error:
            raise UserError(f"{whose}: {error.message}", hint=error.hint) from None
        if not bool(torch.isfinite(logits).all()):
            raise UserError(f"{whose} gives NaN or infinite logits", hint="check its weights, and its inputs")
        return log_softmax(logits.float(), dim=1)

    def _weights(self, said: torch.Tensor) -> torch.Tensor:
        """[members, batch], summing to one over the members, for log-probabilities [members, batch, classes]."""
        given = torch.tensor(self.shares or [1.0] * len(self.members), dtype=said.dtype)[:, None]
        entropy = -(said.exp() * said).sum(2)
        if self.by == "surest":
            given = (torch.arange(len(said))[:, None] == entropy.argmin(0)).to(said.dtype)
        elif self.by == "entropy":
            given = given / (entropy + TINY)
        else:
            given = given.expand(entropy.shape)
        return given / given.sum(0)
