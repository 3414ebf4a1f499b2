"""Which training samples an epoch uses: those that the teacher can teach best, judged without labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import log_softmax, one_hot

LARGEST = 10.0
"""A gap of more nats counts as one of these, so that one class cannot take all the places."""


def selected(
    kind: str, share: float, teacher: torch.Tensor, student: Callable[[], torch.Tensor], seed: int
) -> torch.Tensor:
    """Indices [share · n], ascending, of the samples whose teacher logits are `teacher` [n, classes].

    `student()` gives its logits [n, classes] as it stands; p, q: softmax of teacher and student; c: a sample's first class by
    the teacher, which is what its class is here.

    "confidence": of each class the largest p(c), so that what the teacher guesses is left out: Waheed et al. 2024,
    arXiv 2407.01257 (uDistil-Whisper), filtering by the teacher's confidence where there are no labels. They have one order for all;
    by classes, an easy one does not take the places of the others.
    "gap": drawn with `seed`, each class having exp(mean of log p(c) − log q(c)) of the places: Liu et al. 2024, arXiv 2407.16154
    (DDK), sampling domains by the ratio of perplexities; a domain is here a class, and the training split is measured, where
    theirs is a validation split.
    """
    count = max(round(share * len(teacher)), 1)
    p = log_softmax(teacher, dim=1)
    sure, first = p.max(1)
    if kind == "confidence":
        scores = -_rank(sure, first, p.shape[1])
    else:
        gap = sure - log_softmax(student(), dim=1).gather(1, first[:, None]).squeeze(1)
        scores = _drawn(gap.clamp(-LARGEST, LARGEST), first, p.shape[1], seed)
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _rank(sure: torch.Tensor, first: torch.Tensor, classes: int) -> torch.Tensor:
    """[n]: the share of a sample's class that is surer than the sample."""
    order = sure.argsort(descending=True, stable=True)
    before = one_hot(first[order], classes).cumsum(0).gather(1, first[order, None]).squeeze(1) - 1
    sizes = torch.bincount(first, minlength=classes)
    return torch.empty_like(sure).scatter(0, order, before.to(sure.dtype)) / sizes[first]


def _drawn(gap: torch.Tensor, first: torch.Tensor, classes: int, seed: int) -> torch.Tensor:
    """Scores [n] whose largest are a draw without replacement, with a probability of exp(mean gap) / size of a sample's class.

    By exponential races: log of the probability less the log of an exponential variable. Efraimidis, Spirakis 2006,
    doi 10.1016/j.ipl.2005.11.003.
    """
    sizes = torch.bincount(first, minlength=classes).clamp(min=1)
    means = torch.zeros(classes, dtype=gap.dtype).index_add(0, first, gap) / sizes
    generator = torch.Generator().manual_seed(seed)
    waits = torch.empty_like(gap).exponential_(generator=generator)
    return (means - sizes.log())[first] - waits.log()
