"""Scores against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekd.metric import EXACT, accuracy, agreement, log_softmax, parity, sqnr

LOGITS = np.array([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])  # softmax: [1/4, 3/4], [4/5, 1/5]


def test_log_softmax() -> None:
    np.testing.assert_allclose(np.exp(log_softmax(LOGITS)), [[0.25, 0.75], [0.8, 0.2]])
    assert np.isfinite(log_softmax(np.array([[1e4, -1e4]], np.float32))).all()


def test_accuracy() -> None:
    assert accuracy(LOGITS, np.array([1, 1])) == 0.5


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_finite_number_is_all_noise(wrong: float) -> None:
    """A comparison with NaN would call it good enough."""
    assert sqnr(np.array([1.0, wrong]), np.ones(2)) == -EXACT


def test_agreement_is_the_kl_from_the_teacher() -> None:
    uniform = np.zeros((2, 2))
    found = agreement(uniform, LOGITS)
    by_hand = (0.25 * math.log(0.5) + 0.75 * math.log(1.5) + 0.8 * math.log(1.6) + 0.2 * math.log(0.4)) / 2
    assert found["kl"] == pytest.approx(by_hand)
    assert found["top1"] == 0.5  # equal outputs count as the first class
    assert agreement(LOGITS, LOGITS) == {"top1": 1.0, "kl": 0.0}


def test_parity_counts_steps() -> None:
    program = np.array([[1.0, 2.0], [3.0, 0.0]])
    outputs = program + np.array([[0.0, 0.1], [0.05, 0.0]])
    assert parity(outputs, program, 0.1) == {"top1": 1.0, "steps": pytest.approx(1.0)}
