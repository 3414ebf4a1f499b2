"""Generations: by hand, that anchored ones come near the teacher, and the labels' best weight against kernel ridge regression."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax, softmax

from edgekd.losses.recursive import Recursive

EVEN, THREE = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])  # [1/2, 1/2] and [1/4, 3/4]
LOSS = Recursive(alpha=0.5, anchor=0.5)
LABEL = torch.tensor([0])


def test_numbers_worked_out_by_hand() -> None:
    state = LOSS.state(THREE, EVEN, 3).train()
    sample = {"labels": LABEL, "samples": torch.tensor([2]), "state": state}
    # not seen yet: the teacher alone. y = ([1, 0] + [1/2, 1/2]) / 2 = [3/4, 1/4]
    found = LOSS(THREE, EVEN, **sample).item()
    assert found == pytest.approx(-(0.75 * math.log(0.25) + 0.25 * math.log(0.75)), rel=1e-6)
    assert state.answers[2].tolist() == pytest.approx([0.25, 0.75])
    assert not state.answers[:2].any()
    # m = ([1/2, 1/2] + [1/4, 3/4]) / 2 = [3/8, 5/8], y = ([1, 0] + m) / 2 = [11/16, 5/16]
    state.eval()
    found = LOSS(THREE, EVEN, **sample).item()
    assert found == pytest.approx(-(11 / 16 * math.log(0.25) + 5 / 16 * math.log(0.75)), rel=1e-6)
    LOSS(EVEN, EVEN, **sample)
    assert state.answers[2].tolist() == pytest.approx([0.25, 0.75])  # only training changes it


def test_anchored_generations_come_near_the_teacher_geometrically() -> None:
    """Each generation says just what it is taught (the target is q less the gradient). The bound is (1 − β)^n of the first KL."""
    torch.manual_seed(0)
    loss = Recursive(alpha=0.0, anchor=0.3)
    teacher, student = torch.randn(1, 6, dtype=torch.float64), 3 * torch.randn(1, 6, dtype=torch.float64)
    state = loss.state(student, teacher, 1).train()
    state.answers = softmax(student, 1)
    p = softmax(teacher, 1)
    divergences = []
    for _ in range(6):
        divergences.append(float((p * (p.log() - log_softmax(student, 1))).sum()))
        logits = student.clone().requires_grad_()
        loss(logits, teacher, labels=LABEL, samples=LABEL, state=state.eval()).backward()
        assert logits.grad is not None
        student = (softmax(student, 1) - logits.grad).log()
        loss(student, teacher, labels=LABEL, samples=LABEL, state=state.train())
    assert all(found <= 0.7**n * divergences[0] + 1e-9 for n, found in enumerate(divergences))
    assert divergences[5] > 0  # it is still on its way


def test_the_labels_best_weight_by_hand() -> None:
    """f₁ − f₀ = (4, −4; 2, −2) / 10, y − f₀ = (6, −6; −4, 4) / 10: (24 + 24 − 8 − 8) / (16 + 16 + 4 + 4) = 0.8."""
    by_labels, by_teacher = torch.tensor([[0.8, 0.2], [0.6, 0.4]]), torch.tensor([[0.4, 0.6], [0.4, 0.6]])
    assert Recursive.best_alpha(by_labels, by_teacher, torch.tensor([0, 1])) == pytest.approx(0.8, rel=1e-6)
    assert Recursive.best_alpha(by_teacher, by_labels, torch.tensor([0, 0])) == 0.0  # beyond the ends it is cut
    assert Recursive.best_alpha(by_labels, by_labels, torch.tensor([0, 1])) == 1.0


def test_the_labels_best_weight_is_that_of_a_search_in_kernel_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x, held = rng.uniform(size=(2, 40, 2))
    label, target = ((a[:, 0] + 0.1 * rng.normal(size=40) > a[:, 1]).astype(int) for a in (x, held))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-3 * ((a[:, None] - b[None]) ** 2).sum(2))

    ridge = np.linalg.inv(kernel(x, x) + 0.05 * np.eye(40))
    labels, targets = np.eye(2)[label], np.eye(2)[target]
    taught = kernel(x, x) @ ridge @ labels  # what the teacher says of the training samples

    def student(alpha: float) -> np.ndarray:
        return np.asarray(kernel(held, x) @ ridge @ (alpha * labels + (1 - alpha) * taught))

    grid = np.linspace(0, 1, 1001)
    best = grid[np.argmin([((student(alpha) - targets) ** 2).sum() for alpha in grid])]
    assert 0 < best < 1
    found = Recursive.best_alpha(*(torch.from_numpy(student(a)) for a in (1.0, 0.0)), torch.from_numpy(target))
    assert found == pytest.approx(best, abs=1e-3)
