"""Texts between texts: what lies between the embeddings of two tokens, as the token that is nearest to it."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

ROWS = 1024
"""Positions that are compared with the whole vocabulary at a time."""


def projected(
    ours: torch.Tensor, theirs: torch.Tensor, table: torch.Tensor, padding: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [n, length] nearest to λ e(x_i) + (1 − λ) e(x_j), and how much of each text is its own, the mean λ [n].

    e: rows of `table` [tokens, width]; nearest by cosine, so that what is made is a text again, and no vector that no text has.
    λ is uniform, drawn for each position: one for all would almost always give one of both texts back. Positions at which either has
    `padding`, the token that most texts end with, stay as they are in x_i: a text keeps its length.
    Source: Wang et al. 2023, arXiv 2210.11768 (AugPro), mixup of embeddings, projected to the nearest tokens; the second of its
    two ways, a step against the loss's gradient, is not here. Where λ differs by position, and padding is left, is our reading.
    """
    kept = torch.rand(ours.shape, generator=generator)
    changed = (ours != theirs) & (ours != padding) & (theirs != padding)
    vectors, found = normalize(table, dim=1), ours.clone()
    weight, own, other = kept[changed][:, None], ours[changed].long(), theirs[changed].long()
    tokens = [
        ((w * table[a] + (1 - w) * table[b]) @ vectors.T).argmax(1)
        for w, a, b in zip(weight.split(ROWS), own.split(ROWS), other.split(ROWS), strict=True)
    ]
    found[changed] = torch.cat(tokens).to(found.dtype)
    return found, torch.where(changed, kept, 1.0).mean(1)
