"""The attention loss: by hand, against the authors' code, and its bounds."""

import math

import numpy as np
import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.attention_map import AttentionMap

LOSS = AttentionMap(student="block", teacher="layer")
# Two channels, two positions: squares summed over channels are [9, 16], absolute values [3, 4].
STUDENT = torch.tensor([[[[3.0, 0.0]], [[0.0, -4.0]]]])
TEACHER = torch.tensor([[[[1.0, 0.0]]]])


def test_numbers_worked_out_by_hand() -> None:
    # unit vectors a, b: ‖a − b‖² = 2 − 2 a·b
    assert LOSS(STUDENT, TEACHER).item() == pytest.approx(2 - 2 * 9 / math.hypot(9, 16), rel=1e-6)
    power_one = AttentionMap(student="block", teacher="layer", power=1.0)
    assert power_one(STUDENT, TEACHER).item() == pytest.approx(2 - 2 * 3 / 5, rel=1e-6)


def test_it_ignores_scale_and_stays_between_zero_and_two() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, 5, 5), torch.randn(4, 8, 5, 5)
    assert LOSS(x, 7 * x).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(LOSS(x, y), LOSS(3 * x, 0.1 * y))
    assert 0 < LOSS(x, y).item() <= 2


def test_against_the_authors_code_in_numpy() -> None:
    """at(x) = normalize(mean over channels of x²), at_loss = mean of (at(x) − at(y))²: ours is that times the positions."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 7, 5, 6))
    a, b = ((z**2).mean(1).reshape(3, -1) for z in (x, y))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    found = LOSS(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert found == pytest.approx(((a - b) ** 2).mean() * 5 * 6, rel=1e-12)


def test_maps_of_two_sizes_are_averaged_down() -> None:
    torch.manual_seed(0)
    small = torch.rand(2, 3, 4, 4)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert LOSS(small, large).item() == pytest.approx(0, abs=1e-10)


def test_its_gradient_is_that_of_finite_differences_and_finite_at_zero() -> None:
    x, y = torch.randn(1, 2, 3, 3, dtype=torch.float64), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: LOSS(z, y), x.requires_grad_())
    zero = torch.zeros(1, 2, 3, 3, requires_grad=True)
    LOSS(zero, torch.ones(1, 2, 3, 3)).backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_features_without_positions_are_refused() -> None:
    with pytest.raises(UserError, match=r'the teacher\'s "layer" gives \[2, 5\]'):
        LOSS(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5))
