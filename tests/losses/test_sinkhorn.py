"""The transport: by hand, against the iteration in numpy, and the plan it should find."""

import math

import numpy as np
import pytest
import torch

from edgekd.losses.sinkhorn import Sinkhorn


def test_a_number_worked_out_by_hand() -> None:
    """p = [1, 0], [0, 1], q = [1/2, 1/2] twice: every cost is 1 and every plan costs as much: 1 a sample."""
    teacher = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert Sinkhorn()(torch.zeros(2, 2), teacher).item() == pytest.approx(1, rel=1e-6)
    # the student has both in the other order: moving each to its own costs exp(−20) of 2, nothing where it is found
    assert Sinkhorn()(teacher.flip(0), teacher).item() == pytest.approx(
        2 * math.exp(-20) / (1 + math.exp(-20)), rel=1e-4
    )


def test_against_the_iteration_in_numpy() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 5)) * 2
    q, p = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (student, teacher))
    cost = np.array([[abs(a - b).sum() for b in p] for a in q])
    plan = np.exp(-cost / 0.3)
    for _ in range(7):
        plan = plan / plan.sum(1, keepdims=True)
        plan = plan / plan.sum(0, keepdims=True)
    loss = Sinkhorn(regularization=0.3, iterations=7)
    found = loss(torch.from_numpy(student), torch.from_numpy(teacher)).item()
    assert found == pytest.approx((plan * cost).sum() / 6, rel=1e-9)


def test_a_small_regularization_finds_the_best_assignment_and_does_not_underflow() -> None:
    from itertools import permutations

    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 4, 5)) * 3
    q, p = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (student, teacher))
    best = min(sum(abs(q[i] - p[j]).sum() for i, j in enumerate(order)) for order in permutations(range(4)))
    loss = Sinkhorn(regularization=2e-3, iterations=500)
    found = loss(torch.from_numpy(student).float(), torch.from_numpy(teacher).float()).item()
    assert found == pytest.approx(best / 4, rel=1e-3)
