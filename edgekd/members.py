"""Several teachers: how far a student is from each of them, and how like its task each of theirs is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import log_softmax

from edgekd.errors import UserError

Array = np.ndarray[Any, Any]


def divergences(student: torch.Tensor, members: torch.Tensor, temperature: float) -> torch.Tensor:
    """τ² KL(p_ik ‖ q_i) [batch, members], in nats times τ², of logits [batch, classes] and [batch, members, classes].

    Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    q = log_softmax(student / temperature, dim=1)[:, None]
    p = log_softmax(members / temperature, dim=2)
    return temperature**2 * (p.exp() * (p - q)).sum(2)


def parc(outputs: Array, labels: Array) -> float:
    """How like the task with these labels [n] a teacher is that gives outputs [n, ...], from −1 to 1.

    Spearman's correlation between two distances of all pairs of samples: 1 − Pearson's correlation of their outputs, each
    output first brought to mean 0 and variance 1 over the samples, and 1 − that of their labels, one-hot.
    Source: Bolya, Mittapalli, Hoffman 2021, arXiv 2111.06977 (Pairwise Annotation Representation Comparison).
    Raises UserError for outputs that say the same of every sample, and for labels of one class.
    """
    from scipy.stats import spearmanr

    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    flat = flat - flat.mean(0)
    spread = flat.std(0)
    flat = flat[:, spread > 0] / spread[spread > 0]
    classes = np.unique(labels)
    if flat.shape[1] < 2 or len(classes) < 2:
        what = "teacher says the same of every sample" if flat.shape[1] < 2 else "samples are of one class"
        raise UserError(f"similarity cannot be told: the {what}", hint='by = "shares"')
    onehot = (labels[:, None] == classes).astype(np.float64)
    pairs = np.triu_indices(len(labels), 1)
    found = spearmanr(*((1 - np.corrcoef(each))[pairs].round(9) for each in (flat, onehot)))  # ties stay ties
    return float(found.statistic)


def shares_by(similarities: Sequence[float], power: float) -> tuple[float, ...]:
    """s_k^power / Σ s_j^power; below zero counts as no similarity. Raises UserError where all of them are.

    Source: Borup, Phoo, Hariharan 2023, arXiv 2304.12314 (DistillWeighted): teachers weighted by the similarity of their task.
    `power` 0 gives those that have any the same share, a large one leaves the most similar alone (their DistillNearest).

    >>> shares_by([0.3, 0.1, -0.2], 1), shares_by([0.3, 0.1], 2)
    ((0.75, 0.25, 0.0), (0.9, 0.1))
    """
    if max(similarities) <= 0:
        shown = ", ".join(f"{s:.3f}" for s in similarities)
        raise UserError(f"no teacher's task is like the student's: similarities {shown}", hint='by = "shares"')
    raised = [(s / max(similarities)) ** power if s > 0 else 0.0 for s in similarities]
    return tuple(round(r / sum(raised), 12) for r in raised)
