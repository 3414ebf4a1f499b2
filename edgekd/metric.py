"""How good outputs are, and how near they are to the teacher's. Plain numpy: engines are judged where torch is not."""

from __future__ import annotations

import numpy as np


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of samples whose largest output is the target. outputs [n, classes], targets [n].

    >>> accuracy(np.array([[1, 2], [3, 0]]), np.array([1, 1]))
    0.5
    """
    return float((outputs.argmax(1) == targets).mean())


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


def parity(outputs: np.ndarray, program: np.ndarray, step: float) -> dict[str, float]:
    """How far an engine's outputs [n, classes] are from its program's in torch: `top1` agreement, and the largest
    difference in `steps` of the output's scale (for a float program, of float32's spacing at the largest output).
    """
    return {
        "top1": float((outputs.argmax(1) == program.argmax(1)).mean()),
        "steps": float(np.abs(outputs.astype(np.float64) - program).max() / step),
    }
