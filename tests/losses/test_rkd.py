"""Relations: by hand, against loops over pairs and triples, and what they ignore."""

import itertools
import math

import numpy as np
import pytest
import torch

from edgekd.losses.rkd import Rkd

RIGHT = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])  # sides 3, 4, 5
EVEN = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])  # sides 1, 1, 1


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def test_numbers_worked_out_by_hand() -> None:
    """Relative to their means the sides are 3/4, 1, 5/4 and 1, 1, 1; each pair is met twice among nine."""
    distances = 2 * (huber(0.25) + 0 + huber(0.25)) / 9
    assert Rkd(angle=0.0)(RIGHT, EVEN).item() == pytest.approx(distances, rel=1e-5)
    # cosines at the corners 0, 3/5, 4/5, and 1/2 three times; each is met twice among 27
    angles = 2 * (huber(0.5) + huber(0.1) + huber(0.3)) / 27
    assert Rkd(distance=0.0, angle=1.0)(RIGHT, EVEN).item() == pytest.approx(angles, rel=1e-5)
    assert Rkd()(RIGHT, EVEN).item() == pytest.approx(distances + 2 * angles, rel=1e-5)


def test_against_loops_over_pairs_and_triples() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 3)), rng.normal(size=(5, 7)) * 4
    mean = [
        np.mean([math.dist(x[i], x[j]) for i, j in itertools.permutations(range(5), 2)]) for x in (student, teacher)
    ]
    distance = angle = 0.0
    for i, j in itertools.permutations(range(5), 2):
        distance += huber(math.dist(student[i], student[j]) / mean[0] - math.dist(teacher[i], teacher[j]) / mean[1])
    for i, j, k in itertools.product(range(5), repeat=3):
        if i in (j, k):
            continue
        a, b = (
            (x[j] - x[i]) @ (x[k] - x[i]) / (math.dist(x[i], x[j]) * math.dist(x[i], x[k])) for x in (student, teacher)
        )
        angle += huber(a - b)
    found = Rkd(distance=3.0, angle=0.5)(torch.from_numpy(student), torch.from_numpy(teacher)).item()
    assert found == pytest.approx(3 * distance / 25 + 0.5 * angle / 125, rel=1e-9)


def test_place_turn_and_size_do_not_matter() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert Rkd()(5 * x @ turn + 3, x).item() == pytest.approx(0, abs=1e-12)


def test_maps_are_averaged_and_twins_have_a_finite_gradient() -> None:
    torch.manual_seed(0)
    maps, teacher = torch.randn(4, 3, 2, 2), torch.randn(4, 6)
    torch.testing.assert_close(Rkd()(maps, teacher), Rkd()(maps.mean((2, 3)), teacher))
    twins = torch.ones(4, 3, requires_grad=True)
    Rkd()(twins, teacher).backward()
    assert twins.grad is not None
    assert torch.isfinite(twins.grad).all()


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: Rkd()(x, teacher), student.requires_grad_())
