"""Steps that are state of their own: the search against brute force, the learned gradient against the paper by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from edgekd.errors import EdgekdError
from edgekd.observers.minmax import MinMax
from edgekd.quant.adapter import ActivationGrid
from edgekd.quant.lsq import LearnedStep, gradient_scale
from edgekd.quant.step import SHARES, PerChannelStep


def step(bits: int, symmetric: bool = False, search: bool = True) -> PerChannelStep:
    low, high = (1 if symmetric else 0) - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    scheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
    return PerChannelStep(torch.int8, low, high, scheme, 0, search=search)


def test_the_extremes_by_hand() -> None:
    """[-1, 2] in four levels: scale 3 / 3 = 1, zero point -2 + 1 = -1. [0, 6]: scale 2, zero point -2. [-3, 0]: zero point 1."""
    found = step(2, search=False)
    found.fit(torch.tensor([[-1.0, 2.0], [1.0, 6.0], [-3.0, -1.0], [0.0, 0.0]]))
    assert found.scale[:3].tolist() == [1.0, 2.0, 1.0]
    assert found.zero_point.tolist() == [-1.0, -2.0, 1.0, -2.0]
    assert found(torch.tensor([[-1.0, 1.4], [2.9, 5.1], [-2.6, 9.0], [0.0, 0.0]])).tolist() == [
        [-1.0, 1.0], [2.0, 6.0], [-3.0, 0.0], [0.0, 0.0]
    ]  # fmt: skip


@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (4, False), (4, True)])
def test_the_search_finds_what_brute_force_finds(bits: int, symmetric: bool) -> None:
    weight = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)).pow(3)
    found = step(bits, symmetric)
    found.fit(weight)
    for channel, row in enumerate(weight.flatten(1).tolist()):
        errors = []
        pairs = [(share, share) for share in SHARES] if symmetric else list(product(SHARES, SHARES))
        for below, above in pairs:
            low, high = min(row) * below, max(row) * above
            scale = max(-low, high) / found.quant_max if symmetric else (high - low) / (2**bits - 1)
            zero = 0 if symmetric else found.quant_min - round(low / scale)
            whole = [min(max(round(w / scale) + zero, found.quant_min), found.quant_max) for w in row]
            errors.append(sum(((q - zero) * scale - w) ** 2 for q, w in zip(whole, row, strict=True)))
        rounded = found(weight)[channel].flatten()
        assert float((rounded - weight[channel].flatten()).square().sum()) == pytest.approx(min(errors), rel=1e-4)


def test_a_rescaled_step_gives_the_rescaled_weight() -> None:
    weight, factor = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)), torch.tensor([2.0, -0.5, -3.0])
    found = step(3)
    found.fit(weight)
    rounded = found(weight)
    found.rescale(factor)
    assert torch.allclose(found(rounded * factor[:, None]), rounded * factor[:, None], atol=1e-6)


def test_what_was_not_measured_has_no_scale() -> None:
    with pytest.raises(EdgekdError, match="has no scale"):
        step(4).calculate_qparams()


def test_the_learned_step_by_hand() -> None:
    """s = 0.5, levels -2 to 1. v = x / s = -5, -1.4, 0.2, 0.8, 3: clipped to -2, rounded to -1, 0, 1, clipped to 1.

    Equation 3: -2, -1 + 1.4, 0 - 0.2, 1 - 0.8, 1. Equation 5: 0, 1, 1, 1, 0.
    """
    x = torch.tensor([-2.5, -0.7, 0.1, 0.4, 1.5], requires_grad=True)
    s = torch.tensor(0.5, requires_grad=True)
    y = LearnedStep.apply(x, s, -2, 1, 0.25)
    assert y.tolist() == [-1.0, -0.5, 0.0, 0.5, 0.5]
    each = [torch.autograd.grad(y[i], s, retain_graph=True)[0].item() / 0.25 for i in range(5)]
    assert each == pytest.approx([-2.0, 0.4, -0.2, 0.2, 1.0], abs=1e-6)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_what_is_masked_passes_and_teaches_the_step_nothing() -> None:
    x, s = torch.tensor([0.7, 5.0], requires_grad=True), torch.tensor(1.0, requires_grad=True)
    y = LearnedStep.apply(x, s, -2, 1, 1.0, torch.tensor([0.0, 1.0]))
    assert y.tolist() == pytest.approx([0.7, 1.0])
    found = torch.autograd.grad((y * torch.tensor([10.0, 1.0])).sum(), [x, s])
    assert found[0].tolist() == [10.0, 0.0]
    assert found[1].item() == 1.0


def test_one_step_a_channel() -> None:
    x = torch.tensor([[0.6, 3.0], [1.2, -9.0]])
    s = torch.tensor([[1.0], [2.0]], requires_grad=True)
    low, high = torch.tensor([[-2.0], [-1.0]]), torch.tensor([[1.0], [2.0]])
    y = LearnedStep.apply(x, s, low, high, 1.0)
    assert y.tolist() == [[1.0, 1.0], [2.0, -2.0]]
    (slope,) = torch.autograd.grad(y.sum(), [s])
    assert slope.flatten().tolist() == pytest.approx([1 - 0.6 + 1, 1 - 0.6 - 1], abs=1e-6)


def test_the_gradients_scale() -> None:
    assert gradient_scale(100, 1) == 0.1
    assert gradient_scale(4, 0) == 0.5  # a grid without positive levels


@pytest.mark.parametrize("bits", [4, 8])
def test_a_learned_activation_computes_the_same_and_settles_where_it_was(bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    grid = ActivationGrid(MinMax, torch.int8, low, high, torch.per_tensor_affine)
    grid.take(-0.4, 1.3)
    x = torch.linspace(-1, 2, 50)[None]
    before, found = grid(x), grid.grid
    grid.learn()
    assert torch.allclose(grid(x), before, atol=1e-6)
    grid(x).sum().backward()
    assert grid.log_step is not None and grid.log_step.grad is not None
    grid.settle_step()
    assert list(grid.state_dict()) == ["minimum", "maximum"]
    assert grid.grid is not None and found is not None
    assert grid.grid == (pytest.approx(found[0], rel=1e-6), found[1])
