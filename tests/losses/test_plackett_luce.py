"""The ranking: by hand, against a loop over the choices, and its limit."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from edgekd.losses.plackett_luce import PlackettLuce


def test_a_number_worked_out_by_hand() -> None:
    """Teacher [1/2, 1/3, 1/6], label 2: π = 2, 0, 1. The student's exp are 1, 2, 3, so 3 of 6 is chosen, then 1 of 3."""
    teacher, student = torch.log(torch.tensor([[3.0, 2.0, 1.0]])), torch.log(torch.tensor([[1.0, 2.0, 3.0]]))
    expected = math.log(6 / 3) / 6 + math.log(3 / 1) / 2
    assert PlackettLuce()(student, teacher, labels=torch.tensor([2])).item() == pytest.approx(expected, rel=1e-6)


def test_against_a_loop_over_the_choices() -> None:
    rng = np.random.default_rng(0)
    student, teacher, labels = *rng.normal(size=(2, 6, 5)), rng.integers(0, 5, size=6)
    total = 0.0
    for s, t, label in zip(student, teacher, labels, strict=True):
        p = np.exp(t / 2) / np.exp(t / 2).sum()
        left = list(range(5))
        for k in range(5):
            chosen = label if k == 0 else max(left, key=lambda c: t[c])
            total += p[chosen] * -math.log(math.exp(s[chosen]) / sum(math.exp(s[c]) for c in left))
            left.remove(chosen)
    found = PlackettLuce(temperature=2.0)(*map(torch.from_numpy, (student, teacher)), labels=torch.from_numpy(labels))
    assert found.item() == pytest.approx(total / 6, rel=1e-9)


def test_a_teacher_sure_of_the_label_makes_it_cross_entropy() -> None:
    torch.manual_seed(0)
    student, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    teacher = torch.nn.functional.one_hot(labels, 4) * 100.0
    torch.testing.assert_close(PlackettLuce()(student, teacher, labels=labels), cross_entropy(student, labels))


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda x: PlackettLuce()(x, teacher, labels=labels), student.requires_grad_())
