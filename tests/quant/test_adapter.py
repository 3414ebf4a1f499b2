"""What stands in the graph: its numbers against torch's own."""

from __future__ import annotations

import pytest
import torch

from edgekd.errors import EdgekdError
from edgekd.observers.minmax import MinMax
from edgekd.quant.adapter import ActivationGrid, PerChannelWeight


def adapter(scheme: torch.qscheme = torch.per_tensor_affine, low: int = -128) -> ActivationGrid:
    return ActivationGrid(observer=MinMax, dtype=torch.int8, quant_min=low, quant_max=127, qscheme=scheme)


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-1.3, 2.1), (-5.0, -1.0)])
def test_fake_quantization_is_torchs_bit_for_bit(low: float, high: float) -> None:
    grid = adapter()
    grid.take(low, high)
    x = torch.randn(4, 500, generator=torch.Generator().manual_seed(0)) * 3
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert grid.grid is not None
    expected = torch.fake_quantize_per_tensor_affine(theirs, *grid.grid, -128, 127)
    found = grid(mine)
    assert torch.equal(found, expected)
    weights = torch.randn(4, 500)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.equal(mine.grad, theirs.grad)
    assert 0 < (mine.grad == 0).sum() < x.numel()  # clipped values, and only they, pass no gradient


def test_it_passes_x_through_until_it_has_a_range() -> None:
    grid, x = adapter(), torch.linspace(-1, 1, 9)
    assert torch.equal(grid(x), x)
    with pytest.raises(EdgekdError, match="has no range"):
        grid.calculate_qparams()
    grid.observe()
    assert torch.equal(grid(x), x)
    assert grid.open is not None
    assert grid.open.range() == (-1.0, 1.0)


def test_the_range_is_its_whole_state() -> None:
    one, other = adapter(), adapter()
    one.take(-0.7, 2.2)
    other.load_state_dict(one.state_dict())
    other.settle()
    assert list(one.state_dict()) == ["minimum", "maximum"]
    assert one.grid == other.grid


def test_symmetric_has_zero_at_zero() -> None:
    grid = adapter(torch.per_tensor_symmetric, -127)
    grid.take(-1.27, 0.3)
    assert grid.grid == (pytest.approx(0.01), 0)


def test_a_weights_scales_by_hand() -> None:
    weight = torch.tensor([[[0.5, -1.27]], [[0.254, 0.1]], [[0.0, 0.0]]])
    grid = PerChannelWeight(torch.int8, -127, 127, torch.per_channel_symmetric, 0)
    assert grid.measure(weight)[:2].tolist() == pytest.approx([0.01, 0.002])
    assert torch.allclose(grid(weight), weight, atol=0.005)
    assert torch.equal(grid(weight)[2], torch.zeros(1, 2))
    grid.floor = torch.tensor([0.0, 0.5, 0.0])
    assert grid.measure(weight)[1] == 0.5


def test_an_unmeasured_weight_has_no_scale() -> None:
    with pytest.raises(EdgekdError, match="has no scale"):
        PerChannelWeight(torch.int8, -127, 127, torch.per_channel_symmetric, 0).calculate_qparams()
