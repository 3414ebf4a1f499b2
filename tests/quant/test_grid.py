"""Scales and zero points."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import UserError
from edgekd.quant.grid import AFFINE, GRIDS, SYMMETRIC, Grid, named, parameters

ends = st.floats(min_value=-1e4, max_value=1e4, allow_subnormal=False)


@given(ends, ends, st.sampled_from([AFFINE, SYMMETRIC]), st.floats(0, 1))
def test_inside_the_range_rounding_costs_half_a_step(a: float, b: float, grid: Grid, where: float) -> None:
    low, high = sorted((a, b))
    q_min, q_max = grid.activation_limits()
    scale, zero = parameters(low, high, (q_min, q_max), grid.activation_symmetric)
    assert q_min <= zero <= q_max
    assert zero == 0 or not grid.activation_symmetric
    x = low + where * (high - low)
    q = max(q_min, min(q_max, round(x / scale) + zero))
    assert abs((q - zero) * scale - x) <= scale * 1.001  # half for rounding x, half for rounding the zero point


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 2.55, (0.01, -128)),  # after a ReLU: zero is the smallest integer
        (-2.55, 0.0, (0.01, 127)),
        (1.0, 2.55, (0.01, -128)),  # widened to hold zero
        (-1.0, 1.55, (0.01, -28)),
        (0.0, 0.0, (2.0**-40, -128)),
    ],
)
def test_affine_by_hand(low: float, high: float, expected: tuple[float, int]) -> None:
    scale, zero = parameters(low, high, (-128, 127), symmetric=False)
    assert (scale, zero) == (pytest.approx(expected[0], rel=1e-6), expected[1])


@pytest.mark.parametrize("grid", GRIDS.values(), ids=list(GRIDS))
def test_a_grid_survives_json(grid: Grid) -> None:
    assert Grid.from_json(json.loads(json.dumps(grid.to_json()))) == grid


def test_an_unknown_grid_names_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "affine"'):
        named("afine")
    assert named("symmetric") is SYMMETRIC


@pytest.mark.parametrize(
    ("bits", "activation", "weight"),
    [(8, (-128, 127), (-127, 127)), (4, (-8, 7), (-8, 7)), (16, (-32768, 32767), None)],
)
def test_limits_by_width(bits: int, activation: tuple[int, int], weight: tuple[int, int] | None) -> None:
    assert AFFINE.activation_limits(bits) == activation
    assert weight in (None, AFFINE.weight_limits(bits))
    assert SYMMETRIC.activation_limits(bits) == (-activation[1], activation[1])


def test_grids_and_rebasing_need_no_torch() -> None:
    code = "import sys, edgekd.quant.grid, edgekd.quant.rebase; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
