"""How well a student that was never trained suits a teacher, told from one batch: DisWOT's two similarities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import normalize, one_hot

from edgekd.errors import UserError
from edgekd.teacher import Teacher
from edgekd.training.features import capture, deepest, shapes, vectors

DRAWS = 16
"""Drawings of random weights that a student's score is the mean of.

One drawing says little: on networks of four classes, 0.4 k to 21 k parameters, its score scattered by 0.08 (standard deviation),
where the means of the narrowest and the widest lay 0.05 apart.
"""


@dataclass(frozen=True)
class Seen:
    """What a network gives for one batch: logits [batch, classes], and its deepest features [batch, channels, ...]."""

    logits: torch.Tensor
    features: torch.Tensor


def semantic(seen: Seen, targets: torch.Tensor) -> torch.Tensor:
    """[classes, classes]: how alike two classes are in the channels that argue for them.

    The rows compared are G = ∂CE/∂W of a classifier W that reads the features' mean over positions: mean over the batch of
    (softmax − one-hot)ᵀ · features, [classes, channels].
    """
    wrong = seen.logits.softmax(1) - one_hot(targets.long(), seen.logits.shape[1])
    return alike(wrong.T @ vectors(seen.features) / len(targets))


def relation(seen: Seen) -> torch.Tensor:
    """[batch, batch]: how alike two samples are in all of the features."""
    return alike(seen.features.flatten(1))


def alike(rows: torch.Tensor) -> torch.Tensor:
    """G Gᵀ of rows G [n, d], each of its rows scaled to length 1: [n, n], whatever d is."""
    return normalize(rows @ rows.T, dim=1)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean squared difference of two matrices [n, n]."""
    return float((a - b).square().mean())


def score(teacher: Seen, student: Seen, targets: torch.Tensor) -> float:
    """−(M_s + M_r): at most 0, higher for a student whose classes and samples lie to each other as they do in the teacher.

    Source: Dong, Li, Wei 2023, arXiv 2303.15678, section 3 (semantic and relation similarity metric, their sum), each matrix
    as in the code that the authors print with it; but classes are compared with classes over all channels at once where that
    compares channels with channels, so that a student may be narrower than its teacher.
    """
    return -(
        apart(semantic(teacher, targets), semantic(student, targets)) + apart(relation(teacher), relation(student))
    )


def teachers_view(teacher: Teacher, inputs: torch.Tensor) -> Seen:
    """What the teacher gives. Raises UserError for one of which only the outputs are had."""
    name = deepest(teacher.shapes(inputs[:2]))
    logits, features = teacher.features(inputs, [name])
    return Seen(logits, features[name])


@torch.no_grad()
def students_view(network: nn.Module, inputs: torch.Tensor) -> Seen:
    """What a network with random weights gives, its batch norms on the batch's own statistics, as at the start of training."""
    network.train()
    name = deepest(shapes(network, inputs[:2], "student"))
    with capture(network, [name], "student") as caught:
        logits = network(inputs)
    return Seen(logits, caught[name])


def suits(teacher: Seen, make: Callable[[int], nn.Module], inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean score over `DRAWS` drawings of the student's weights, `make(0)`, `make(1)`, …

    Raises UserError for a student whose outputs are of another form than the teacher's.
    """
    found = []
    for draw in range(DRAWS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw)
            student = students_view(make(draw), inputs)
        if student.logits.shape != teacher.logits.shape:
            ours, theirs = list(student.logits.shape), list(teacher.logits.shape)
            raise UserError(f"its outputs are {ours}, the teacher's {theirs}")
        found.append(score(teacher, student, targets))
    return sum(found) / DRAWS
