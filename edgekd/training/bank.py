"""Memory banks: the teacher's last embeddings, which a contrastive loss compares with, and the student's last answers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize, softmax


class Queue(nn.Module):
    """The last embeddings of the teacher, of length one, oldest first at `place`; random ones until it has seen enough."""

    held: torch.Tensor
    place: torch.Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("held", normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def push(self, embeddings: torch.Tensor) -> None:
        """Replace the oldest by `embeddings` [batch, width]; of more than there is room for, the last stay."""
        embeddings = embeddings[-len(self.held) :]
        rows = (self.place + torch.arange(len(embeddings), device=self.place.device)) % len(self.held)
        self.held[rows] = embeddings.to(self.held.dtype)
        self.place.copy_((self.place + len(embeddings)) % len(self.held))


class Past(nn.Module):
    """The last answer to each training sample, [count, classes]; all zero for one not yet seen."""

    answers: torch.Tensor

    def __init__(self, count: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("answers", torch.zeros(count, classes))

    def recalled(self, samples: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """The answers to `samples` [batch], and for those not yet seen what `first` [batch, classes] says."""
        past = self.answers[samples].to(first.dtype)
        return torch.where(past.sum(1, keepdim=True) > 0, past, first)

    def keep(self, samples: torch.Tensor, logits: torch.Tensor) -> None:
        """In training, remember what `logits` [batch, classes] answer."""
        if self.training:
            self.answers[samples] = softmax(logits.detach(), dim=1).to(self.answers.dtype)
