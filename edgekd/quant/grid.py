"""The grid: which integers a runtime has fast kernels for, and which operators get a quantize/dequantize pair.

A student is quantized once for each grid, not once for each backend. Imports neither torch nor a runtime.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.errors import UserError, nearest

__all__ = ["AFFINE", "GRIDS", "SYMMETRIC", "Grid", "limits", "named", "parameters"]

SMALLEST_SCALE = 2.0**-40  # an all-zero tensor's scale: any value would do, this one divides without overflow


@dataclass(frozen=True)
class Grid:
    """One number grid: activations have one scale a tensor, affine or symmetric; weights one a channel.

    8-bit weights are symmetric s8 in [-127, 127], which is what kernels take; narrower ones, which are simulated, are affine
    where activations are. How many bits a tensor gets is `edgekd.quant.precision`'s to say.

    `operators` compute on integers and own their output's range; `shared` only move values, so that their output keeps
    their input's scale and zero point; `fused` are absorbed into the operator before them. `float_logits` leaves the output
    of a linear layer unquantized that ends the network or that only float operators read: the integer product is scaled to
    float directly. A transformer needs that: what its layers add to the residual stream has outliers that 8 bits cannot hold.
    """

    name: str
    activation_symmetric: bool = False
    operators: tuple[str, ...] = (
        "conv2d",
        "linear",
        "add",
        "mul",
        "concat",
        "average_pool",
        "relu",
        "clamp",
        "sigmoid",
    )
    shared: tuple[str, ...] = ("max_pool", "reshape", "dropout")
    fused: tuple[str, ...] = ("relu", "clamp")
    float_logits: bool = True

    def activation_limits(self, bits: int = 8) -> tuple[int, int]:
        """Smallest and largest integer of an activation."""
        return limits(bits, self.activation_symmetric)

    def weight_limits(self, bits: int = 8) -> tuple[int, int]:
        """Smallest and largest integer of a weight."""
        return limits(bits, self.weight_symmetric(bits))

    def weight_symmetric(self, bits: int = 8) -> bool:
        """Whether a weight's zero point is zero."""
        return self.activation_symmetric or bits == 8

    def to_json(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Grid:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


AFFINE = Grid("affine")
SYMMETRIC = Grid("symmetric", activation_symmetric=True)
GRIDS = {grid.name: grid for grid in (AFFINE, SYMMETRIC)}


def named(name: str) -> Grid:
    """The grid of that name. Raises UserError, naming the nearest, if there is none."""
    if name not in GRIDS:
        raise UserError(f'no grid named "{name}"', hint=nearest(name, GRIDS))
    return GRIDS[name]


def limits(bits: int, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest integer of a grid; a symmetric one leaves out the smallest, so that −q is there for each q.

    >>> limits(8, symmetric=False), limits(8, symmetric=True), limits(2, symmetric=False), limits(2, symmetric=True)
    ((-128, 127), (-127, 127), (-2, 1), (-1, 1))
    """
    half = 2 ** (bits - 1)
    return (1 - half if symmetric else -half), half - 1


def parameters(minimum: float, maximum: float, limits: tuple[int, int], symmetric: bool) -> tuple[float, int]:
    """Scale (a float32 value) and zero point of the grid that spans a range, widened so that zero is exact.

    x ≈ scale · (q − zero_point), q in limits; an affine scale is (max − min) / (q_max − q_min).

    >>> parameters(0.0, 510.0, (-128, 127), symmetric=False)
    (2.0, -128)
    >>> parameters(-1.0, 254.0, (-127, 127), symmetric=True)
    (2.0, 0)

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3, equation 13; the nudged zero point is their section 3.1.
    """
    minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
    low, high = limits
    if symmetric:
        return _float32(max(max(-minimum, maximum) / high, SMALLEST_SCALE)), 0
    scale = _float32(max((maximum - minimum) / (high - low), SMALLEST_SCALE))
    return scale, max(low, min(high, low - round(minimum / scale)))


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
