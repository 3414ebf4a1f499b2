"""How like a task a teacher's is, and what share that gives it."""

import numpy as np
import pytest
from scipy.stats import rankdata

from edgekd.errors import UserError
from edgekd.members import parc, shares_by

LABELS = np.array([0, 0, 1, 1, 2, 2])


def test_outputs_that_are_the_labels_are_wholly_alike_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    assert parc(np.eye(3)[LABELS], LABELS) == pytest.approx(1.0)
    labels = np.arange(60) % 3
    assert abs(parc(rng.normal(size=(60, 4)), labels)) < 0.1
    near = [parc(np.eye(3)[labels] + noise * rng.normal(size=(60, 3)), labels) for noise in (0.1, 0.5, 2.0)]
    assert 1 > near[0] > near[1] > near[2] > 0


def test_it_is_the_rank_correlation_of_two_distances_pair_by_pair() -> None:
    """An independent derivation: for each pair of samples one number a side, then Pearson's correlation of their ranks."""
    outputs = np.random.default_rng(1).normal(size=(6, 4)) * [1, 10, 0.1, 3] + [0, 5, 0, 1]
    scaled = (outputs - outputs.mean(0)) / outputs.std(0)

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(), b - b.mean()
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    far = np.array([1 - correlation(scaled[i], scaled[j]) for i, j in pairs])
    other = np.array([0.0 if LABELS[i] == LABELS[j] else 1.5 for i, j in pairs])  # one-hot of 3: correlation −1/2
    assert parc(outputs, LABELS) == pytest.approx(correlation(rankdata(far), rankdata(other)))


def test_what_cannot_be_told_is_said() -> None:
    with pytest.raises(UserError, match="the teacher says the same of every sample"):
        parc(np.ones((6, 3)), LABELS)
    with pytest.raises(UserError, match="the samples are of one class"):
        parc(np.random.default_rng(0).normal(size=(6, 3)), np.zeros(6, np.int64))
    with pytest.raises(UserError, match=r"no teacher's task is like the student's: similarities -0.100, 0.000"):
        shares_by([-0.1, 0.0], 1)


def test_the_power_goes_from_equal_shares_to_the_nearest_alone() -> None:
    assert shares_by([0.4, 0.2, -0.1], 0) == (0.5, 0.5, 0.0)
    assert shares_by([0.4, 0.2], 1) == pytest.approx((2 / 3, 1 / 3))
    assert shares_by([0.4, 0.2], 400) == (1.0, 0.0)
