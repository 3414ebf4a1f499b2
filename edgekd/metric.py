"""How good outputs are, and how near they are to the teacher's. Plain numpy: engines are judged where torch is not."""

from __future__ import annotations

import math

import numpy as np


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of samples whose largest output is the target. outputs [n, classes], targets [n].

    >>> accuracy(np.array([[1, 2], [3, 0]]), np.array([1, 1]))
    0.5
    """
    return float((outputs.argmax(1) == targets).mean())


def same_class(outputs: np.ndarray, others: np.ndarray) -> float:
    """Share of places whose largest output along the last dimension is the same."""
    return float((outputs.argmax(-1) == others.argmax(-1)).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[n, classes] -> [n, classes], in double precision."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def agreement(outputs: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Agreement with the teacher's logits [n, classes]: `top1`, the share of equal classes, and `kl`, the mean of
    KL(teacher || outputs) in nats.
    """
    theirs, ours = log_softmax(teacher), log_softmax(outputs)
    return {
        "top1": float((outputs.argmax(1) == teacher.argmax(1)).mean()),
        "kl": float((np.exp(theirs) * (theirs - ours)).sum(1).mean()),
    }


def sqnr(outputs: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-quantization-noise ratio in dB, 10 log10(E[r²] / E[(r − y)²]), at most `EXACT`: float32's own.

    −`EXACT` where an output is no finite number.

    Source: Sheng et al. 2018, arXiv 1803.08607, section 3, which judges quantized networks by it.

    >>> round(sqnr(np.array([1.0, 0.99]), np.array([1.0, 1.0])), 6), sqnr(np.ones(2), np.ones(2))
    (43.0103, 144.0)
    """
    theirs, ours = reference.astype(np.float64), outputs.astype(np.float64)
    signal, lost = float((theirs**2).mean()), float(((theirs - ours) ** 2).mean())
    if not lost:
        return EXACT
    if not math.isfinite(lost):
        return -EXACT
    return min(10 * math.log10(signal / lost), EXACT) if signal else -EXACT


EXACT = 144.0
"""dB; 20 log10(2^24) is 144.5: with no more than that a float32 output cannot be told from the reference."""


def fidelity(outputs: np.ndarray, reference: np.ndarray) -> float:
    """1 − ‖y − r‖ / ‖r‖: 1 where outputs [n, ...] are the reference's, 0 for zeros; below 0 is worse than saying nothing.

    Of whole numbers, the share that is equal. It is 1 − 10^(−SQNR / 20).

    >>> fidelity(np.array([3.0, 4.5]), np.array([3.0, 4.0])), fidelity(np.array([1, 2]), np.array([1, 3]))
    (0.9, 0.5)
    """
    if reference.dtype.kind != "f":
        return float((outputs == reference).mean())
    theirs, ours = reference.astype(np.float64), outputs.astype(np.float64)
    norm, lost = float(np.linalg.norm(theirs)), float(np.linalg.norm(ours - theirs))
    return 1 - lost / norm if norm else float(lost == 0)


def parity(outputs: np.ndarray, program: np.ndarray, step: float) -> dict[str, float]:
    """How far an engine's outputs [n, ...] are from its program's in torch: `top1` agreement, and the largest
    difference in `steps` of the output's scale (for a float program, of float32's spacing at the largest output).
    """
    return {
        "top1": float((_flat(outputs).argmax(1) == _flat(program).argmax(1)).mean()),
        "steps": float(np.abs(outputs.astype(np.float64) - program).max() / step),
    }


def _flat(values: np.ndarray) -> np.ndarray:
    """[n, ...] -> [n, values of a sample]."""
    return values.reshape(len(values), -1)
