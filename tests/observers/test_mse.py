"""The least squared error, against torch's own fake-quantizer searched by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.observers.mse import Mse, _errors


def loss(x: torch.Tensor, low: float, high: float) -> float:
    scale = (max(high, 0.0) - min(low, 0.0)) / 255
    zero = round(-min(low, 0.0) / scale)
    return float((torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255) - x).square().mean())


@pytest.mark.parametrize("name", ["normal", "relu", "laplace", "outlier"])
def test_no_range_of_a_brute_force_search_is_much_better(name: str) -> None:
    draw = torch.Generator().manual_seed(3)
    normal = torch.randn(20000, generator=draw)
    x = {
        "normal": normal,
        "relu": normal.relu(),
        "laplace": normal.sign() * torch.rand(20000, generator=draw).log(),
        "outlier": torch.cat([normal, torch.tensor([25.0])]),
    }[name]
    observer = Mse()
    observer.update(x)
    low, high = x.min().item(), x.max().item()
    steps = np.linspace(0.05, 1.0, 24)
    best = min(loss(x, low * a, high * b) for a in (steps if low < 0 else [0.0]) for b in steps)
    assert loss(x, *observer.range()) <= 1.03 * best
    assert loss(x, *observer.range()) <= loss(x, low, high)


def test_the_error_of_a_grid_worked_by_hand() -> None:
    # 4 levels over [0, 3]: scale 1; 0.4 → 0, 1.5 → 2 (half to even), 5 → 3 (clipped)
    x, count = np.array([0.4, 1.5, 5.0]), np.array([2.0, 1.0, 3.0])
    found = _errors(x, count, np.array([[0.0, 3.0]]), levels=4)
    assert found[0] == pytest.approx(2 * 0.4**2 + 1 * 0.5**2 + 3 * 2.0**2)


def test_a_grid_needs_two_levels() -> None:
    with pytest.raises(ValueError, match="2 levels"):
        Mse(levels=1)
