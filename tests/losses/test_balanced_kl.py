"""Both divergences: by hand, which of them leads, and against SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import entropy

from edgekd.losses.balanced_kl import BalancedKl
from edgekd.losses.kl import Kl
from edgekd.losses.reverse_kl import ReverseKl

EVEN = torch.zeros(1, 2)  # [1/2, 1/2]
SURE = torch.tensor([[0.0, 2 * math.log(3)]])  # at τ = 2 [1/4, 3/4]
TO_EVEN = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)  # KL([1/4, 3/4] ‖ [1/2, 1/2])
FROM_EVEN = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)


def test_numbers_worked_out_by_hand() -> None:
    """An unsure student: the reverse divergence leads, that from the student. One too sure: the forward one, from the teacher."""
    loss = BalancedKl(temperature=2.0, emphasis=3.0)
    assert loss(EVEN, SURE).item() == pytest.approx(4 * (TO_EVEN + 3 * FROM_EVEN), rel=1e-6)
    assert loss(SURE, EVEN).item() == pytest.approx(4 * (3 * FROM_EVEN + TO_EVEN), rel=1e-6)


def test_each_sample_is_weighted_by_its_own_entropies() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 20, 5)) * 3
    expected, leads = 0.0, 0
    for s, t in zip(student, teacher, strict=True):
        q, p = (np.exp(x / 3) / np.exp(x / 3).sum() for x in (s, t))
        too_sure = entropy(p) > entropy(q)
        forward, reverse = rel_entr(p, q).sum(), rel_entr(q, p).sum()
        expected += 9 * (2 * forward + reverse if too_sure else forward + 2 * reverse) / 20
        leads += too_sure
    assert 0 < leads < 20
    found = BalancedKl(temperature=3.0, emphasis=2.0)(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_without_emphasis_it_is_the_sum_of_both() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 4)
    both = Kl(temperature=2.0)(student, teacher) + ReverseKl(temperature=2.0)(student, teacher)
    torch.testing.assert_close(BalancedKl(temperature=2.0, emphasis=1.0)(student, teacher), both)


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: BalancedKl()(x, teacher), student.requires_grad_())
