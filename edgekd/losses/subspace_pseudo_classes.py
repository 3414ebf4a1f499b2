"""Few classes say little: the teacher's embeddings split each into pseudo-classes, which a branch of the student learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import kl_div, log_softmax, one_hot

from edgekd.training.features import vectors

__all__ = ["SubspacePseudoClasses"]

NOTHING = 1e-6
"""A variance below this share of the largest is none."""


class _Subspaces(nn.Module):
    """The branch; what was seen of each class's embeddings (number, sum, sum of outer products); the directions found in them."""

    number: torch.Tensor
    sums: torch.Tensor
    outer: torch.Tensor
    centres: torch.Tensor
    axes: torch.Tensor
    left: torch.Tensor

    def __init__(self, student: int, teacher: int, count: int, directions: int) -> None:
        super().__init__()
        self.widths = student, teacher
        self.directions = min(directions, teacher)
        self.branch: nn.Linear | None = None
        self.register_buffer("left", torch.tensor(count))

    def begin(self, classes: int) -> nn.Linear:
        """The branch; the first call, which knows how many classes there are, makes it and the rest."""
        if self.branch is None:
            student, teacher = self.widths
            self.branch = nn.Linear(student, classes * 2 * self.directions)
            for name, shape in (("number", ()), ("sums", (teacher,)), ("outer", (teacher, teacher))):
                self.register_buffer(name, torch.zeros(classes, *shape, dtype=torch.float64))
            self.register_buffer("centres", torch.zeros(classes, teacher))
            self.register_buffer("axes", torch.zeros(classes, teacher, self.directions))
        return self.branch

    def see(self, embeddings: torch.Tensor, classes: torch.Tensor) -> None:
        """Embeddings [batch, channels] of `classes` [batch]. After as many as there are training samples, find the directions."""
        if not bool(self.left > 0):
            return
        which, x = one_hot(classes, len(self.number)).double(), embeddings.double()
        self.number += which.sum(0)
        self.sums += which.T @ x
        self.outer += torch.einsum("bc,bd,be->cde", which, x, x)
        self.left -= len(x)
        if not bool(self.left > 0):
            self._find()

    def _find(self) -> None:
        """The directions of most variance within each class, scaled to variance one and turned at random among themselves."""
        number = self.number.clamp(min=1)[:, None]
        centres = self.sums / number
        spread = self.outer / number[..., None] - centres[:, :, None] * centres[:, None, :]
        seen = centres[self.number > 0]
        _, sizes, across = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
        across = across[sizes > NOTHING * sizes.max().clamp(min=NOTHING)]
        within = torch.eye(spread.shape[1], dtype=spread.dtype) - across.T @ across
        values, basis = torch.linalg.eigh(within @ spread @ within)
        values, basis = values[:, -self.directions :], basis[:, :, -self.directions :]
        enough = values > NOTHING * values.max().clamp(min=torch.finfo(values.dtype).tiny)
        scale = torch.where(enough, values.clamp(min=torch.finfo(values.dtype).tiny).rsqrt(), 0.0)
        turn = torch.linalg.qr(torch.randn(len(values), self.directions, self.directions, dtype=values.dtype)).Q
        self.centres.copy_(centres)
        self.axes.copy_(basis * scale[:, None, :] @ turn)


@dataclass(frozen=True)
class SubspacePseudoClasses:
    """KL(P ‖ Q) over classes c and their pseudo-classes k, with P_ck = p_c · r_ck, p = softmax(teacher), Q the student's branch.

    r_c = softmax over k of (a_c, −a_c) / τ, with a_c the teacher's embedding in `directions` of class c: its components of most
    variance within the class, each scaled to variance one, turned at random so that all say as much. The directions
    between the classes' means are taken out first. They are found once, when the training has passed over the data once;
    until then only KL(p ‖ Σ_k Q_k) counts. The branch is linear, from the module `student`, and dropped after training: name a loss
    on logits beside it. It remembers [classes, channels, channels], so it is for few classes. Its class of a sample is the teacher's.
    Source: Loo et al. 2024, arXiv 2409.20449 (LELP): pseudo-classes from linear subspaces of each class's embeddings, without what the
    classifier reads. They take out the classifier's weights and their student's head is the branch; that each direction
    gives two pseudo-classes by its sign, and their softmax, is our reading.
    """

    wants: ClassVar[str] = "features"
    also: ClassVar[tuple[str, ...]] = ("logits",)
    student: str = ""
    teacher: str = ""
    directions: Annotated[int, Field(ge=1)] = 4
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def state(self, student: torch.Tensor, teacher: torch.Tensor, count: int) -> _Subspaces:
        """What the branch and the directions are made in at the first call."""
        return _Subspaces(vectors(student).shape[1], vectors(teacher).shape[1], count, self.directions)

    def __call__(
        self, student: torch.Tensor, teacher: torch.Tensor, *, logits: torch.Tensor, state: _Subspaces
    ) -> torch.Tensor:
        """Features [batch, channels, …] of both, the teacher's logits [batch, classes] → mean over the batch, in nats."""
        branch, embeddings = state.begin(logits.shape[1]), vectors(teacher)
        q = log_softmax(branch(vectors(student)), dim=1).unflatten(1, (logits.shape[1], -1))
        p, whole = log_softmax(logits, dim=1), q.logsumexp(2)
        loss = kl_div(whole, p, reduction="batchmean", log_target=True)
        if not bool(state.left > 0):
            r = self._shares(embeddings, state)
            apart = (r.exp() * (r - (q - whole[..., None]))).sum(2)
            loss = loss + (p.exp() * apart).sum(1).mean()
        if state.training:
            state.see(embeddings, logits.argmax(1))
        return loss

    def _shares(self, embeddings: torch.Tensor, state: _Subspaces) -> torch.Tensor:
        """log r [batch, classes, 2 · directions]."""
        a = torch.einsum("bcd,cdk->bck", embeddings[:, None] - state.centres, state.axes)
        return log_softmax(torch.cat([a, -a], 2) / self.temperature, dim=2)
