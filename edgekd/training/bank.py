"""A memory bank: the last embeddings of the teacher, which a contrastive loss compares with."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize


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
