"""Which training samples an epoch uses: those that the teacher can teach best."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn.functional import log_softmax, normalize, one_hot

from edgekd.coverage import covering
from edgekd.errors import UserError

LARGEST = 10.0
"""A gap of more nats counts as one of these, so that one class cannot take all the places."""
POOL = 4096
"""Samples that are covered together: to cover n with a share of n takes n² steps."""
LIKE = 128
"""Labelled samples of a class that the others are compared with, at most."""

Answers = Callable[[], torch.Tensor]
"""Logits [n, classes] of the training samples."""


def selected(
    kind: str, share: float, teacher: torch.Tensor, student: Answers, seed: int, targets: torch.Tensor, before: Answers
) -> torch.Tensor:
    """Indices [share · n], ascending, of the samples whose teacher logits are `teacher` [n, classes] and labels `targets` [n].

    `student()` gives its logits as it stands, `before()` those of the student that this training began from; p, q, r: softmax
    of teacher, student and student before; c: a sample's first class by the teacher.

    "confidence": of each class c the largest p(c), so that what the teacher guesses is left out: Waheed et al. 2024,
    arXiv 2407.01257 (uDistil-Whisper), filtering by the teacher's confidence where there are no labels. They have one order for all;
    by classes, an easy one does not take the places of the others.
    "gap": drawn with `seed`, each class c having exp(mean of log p(c) − log q(c)) of the places: Liu et al. 2024, arXiv 2407.16154
    (DDK), sampling domains by the ratio of perplexities; a domain is here a class, and the training split is measured, where
    theirs is a validation split.
    "difference": the largest log p(y) − log r(y), y the label, or c without one: what the teacher knows and a small network does
    not; what both know, or neither does, is left out. Gu et al. 2024, arXiv 2410.17215 (MiniPLM), difference sampling, there of
    texts by their likelihood; the small reference model, trained on a part of the data, is the student of the stage before.
    "coreset": far apart in the student's probabilities, from a first one on each the farthest from all that are chosen: Kang et
    al. 2025, arXiv 2506.00910 (PCoreSet), which chooses what to label next. `POOL` samples, drawn with `seed`, are covered at a time.
    "weight_aware": see `_weights`.

    Raises UserError where labels are needed and missing, and for a student before that knew nothing.
    """
    count = max(round(share * len(teacher)), 1)
    p = log_softmax(teacher, dim=1)
    sure, first = p.max(1)
    if kind == "coreset":
        return _spread(student().softmax(1), count, seed)
    if kind == "confidence":
        scores = -_rank(sure, first, p.shape[1])
    elif kind == "gap":
        gap = sure - log_softmax(student(), dim=1).gather(1, first[:, None]).squeeze(1)
        scores = _drawn(gap.clamp(-LARGEST, LARGEST), first, p.shape[1], seed)
    elif kind == "difference":
        label = first if targets.is_floating_point() else torch.where(targets >= 0, targets, first)
        known, small = (x.gather(1, label[:, None]).squeeze(1) for x in (p, log_softmax(before(), dim=1)))
        if float(small.mean()) <= -math.log(p.shape[1]):
            guess = f"{float(small.mean()):.3g} nats, a guess {-math.log(p.shape[1]):.3g}"
            message = f'select = "difference": the student knew nothing before this training: its mean log-likelihood is {guess}'
            raise UserError(message, hint="a short stage on labels before it; `fresh = true` here begins again")
        scores = known - small
    else:
        scores = _weights(p, targets, seed)
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


def _spread(chances: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Indices [count], ascending, that cover the probabilities [n, classes]: of each pool its share."""
    order = torch.randperm(len(chances), generator=torch.Generator().manual_seed(seed))
    found, done = order[:0], 0
    for pool in order.split(POOL):
        done += len(pool)
        size = count * done // len(order) - len(found)
        if size:
            found = torch.cat([found, pool[covering(chances[pool], size, first=0)]])
    return found.sort().values


def _weights(p: torch.Tensor, targets: torch.Tensor, seed: int) -> torch.Tensor:
    """s_1 − s_2 [n], s_c the largest cosine of a sample with a labelled one of class c, s_1 and s_2 its largest and second largest.

    So a sample weighs little that is like no class, or like two: an unknown one. Samples with a label come before those without.
    Source: Du et al. 2023, arXiv 2308.11874 (Weight-Aware Distillation), the weight s_1 (1 − s_2 / s_1) of the authors' code, by
    which samples of unknown classes are kept from a student that has few labels. There the cosines are of a contrastive teacher's
    embeddings; a teacher of which only logits are had says as much by log p [n, classes], its mean over classes taken away.
    A labelled sample is not compared with itself, and with `LIKE` of a class at most, drawn with `seed`.
    """
    hint = 'labels of two classes at least, or another selection, as select = "confidence"'
    if targets.is_floating_point() or len(classes := targets[targets >= 0].unique()) < 2:
        raise UserError('select = "weight_aware" compares samples with labelled ones of each class', hint=hint)
    z = normalize(p - p.mean(1, keepdim=True), dim=1)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    nearest = []
    for label in classes:
        held = order[targets[order] == label][:LIKE]
        cosines = z @ z[held].T
        cosines[held, torch.arange(len(held))] = -1.0
        nearest.append(cosines.amax(1))
    best = torch.stack(nearest, 1).topk(2, dim=1).values
    return best[:, 0] - best[:, 1] + (4.0 if bool((targets < 0).any()) else 0.0) * (targets >= 0)
