"""Learned rounding: the formulas by hand."""

from __future__ import annotations

import math

import pytest
import torch

from edgekd.quant.rounding import SoftRounding, regularizer, soften, unsoften
from edgekd.quant.step import PerChannelStep


def test_the_rectified_sigmoid_by_hand() -> None:
    """σ(0) = 0.5 → 0.5. σ(ln 3) = 0.75 → 0.75 · 1.2 − 0.1 = 0.8. σ(ln 19) = 0.95 → 1.04, clipped to 1."""
    found = soften(torch.tensor([0.0, math.log(3), math.log(19), -math.log(19)]))
    assert found.tolist() == pytest.approx([0.5, 0.8, 1.0, 0.0], abs=1e-6)
    assert unsoften(torch.tensor([0.5, 0.8])).tolist() == pytest.approx([0.0, math.log(3)], abs=1e-6)


def test_the_regularizer_by_hand() -> None:
    """|2h − 1| of 0, 0.25, 0.5, 1 is 1, 0.5, 0, 1; β = 2: 1 − 1 + 1 − 0.25 + 1 − 0 + 1 − 1 = 1.75."""
    assert regularizer(torch.tensor([0.0, 0.25, 0.5, 1.0]), 2.0).item() == pytest.approx(1.75)


def weight_and_step(bits: int = 2) -> tuple[torch.Tensor, PerChannelStep]:
    step = PerChannelStep(
        torch.int8, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, torch.per_channel_affine, 0, search=False
    )
    weight = torch.tensor([[-1.0, 0.3, 1.6, 2.0], [0.0, 1.0, 2.9, 6.0]])
    step.fit(weight)
    return weight, step


def test_it_begins_at_the_float_weight_and_ends_on_the_grid() -> None:
    weight, step = weight_and_step()  # scales 1 and 2, zero points -1 and -2
    soft = SoftRounding(weight, step, learn_step=False)
    assert torch.allclose(soft(), weight, atol=1e-5)
    assert soft.hard().tolist() == [[-1.0, 0.0, 2.0, 2.0], [0.0, 2.0, 2.0, 6.0]]  # 0.5 of a step rounds up
    with torch.no_grad():
        soft.v[0, 1] = 9.0
    assert soft().tolist()[0][1] == soft.hard().tolist()[0][1] == 1.0
    assert soft.log_step is None
    assert torch.equal(soft.scale().flatten(), step.scale)


def test_the_step_scales_integers_that_stay() -> None:
    """∂w/∂ log s = w, on whatever side the rounding is."""
    weight, step = weight_and_step()
    soft = SoftRounding(weight, step, learn_step=True)
    hard = soft.hard()
    (slope,) = torch.autograd.grad(hard.sum(), [soft.log_step])
    assert slope.flatten().tolist() == pytest.approx([3.0, 10.0], abs=1e-5)
    with torch.no_grad():
        soft.log_step += math.log(3)
    assert torch.allclose(soft.hard(), 3 * hard, atol=1e-5)
