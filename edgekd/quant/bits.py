"""Bits of each layer's weights under a budget of bytes, chosen together by an integer programme.

    minimise  Σ_l Σ_b loss_lb x_lb    subject to  Σ bytes_lb x_lb ≤ budget,  Σ_b x_lb = 1,  x binary

loss_lb is what was measured with the weight of layer l alone at b bits; that losses add up is the assumption of Cai et al.
2020 (ZeroQ, arXiv 2001.00281, section 3.2). Solved by HiGHS to proven optimality, as `edgekd/pruning/allocation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from edgekd.errors import EdgekdError, UserError
from edgekd.quant.precision import FLOAT
from edgekd.units import format_bytes, parse_bytes

__all__ = ["Bits", "Layer", "SizeBudget", "allocate", "planned", "weight_bytes"]

RESOLUTION = 1e6
"""The largest loss in units of the objective: HiGHS takes two plans for equal within 10⁻⁶."""


@dataclass(frozen=True)
class SizeBudget:
    """`size`: "60 kB", of all layers that have weights: their weights packed, scales, zero points and biases."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    size: str

    def __post_init__(self) -> None:
        try:
            parse_bytes(self.size)
        except ValueError as error:
            raise UserError(
                f"quantize: bits.budget.size: {error}", hint='bits = { budget = { size = "60 kB" } }'
            ) from None

    @property
    def bytes(self) -> int:
        return parse_bytes(self.size)


@dataclass(frozen=True)
class Bits:
    """`choices`: the bits that a layer's weight may get, 2 to 8, or 32 for one that stays in float."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    budget: SizeBudget
    choices: tuple[int, ...] = (8, 4, 2)

    def __post_init__(self) -> None:
        wrong = [bits for bits in self.choices if bits != FLOAT and not 2 <= bits <= 8]
        if wrong or len(set(self.choices)) < max(2, len(self.choices)):
            said = f"{wrong[0]} bits" if wrong else "there is nothing to choose from, or something twice"
            raise UserError(
                f"quantize: bits.choices: {said}", hint="two or more of 2 to 8, and 32 for float: [8, 4, 2]"
            )

    def of(self, least: int) -> list[int]:
        """The choices of a layer that gets `least` bits or more, widest first."""
        return sorted((b for b in self.choices if b >= least), reverse=True) or [least]


@dataclass(frozen=True)
class Layer:
    """A layer in the programme: its choices with the bytes and the loss of each; `weights` is how many it has."""

    name: str
    weights: int
    choices: tuple[int, ...]
    bytes: tuple[int, ...]
    losses: tuple[float, ...]


def weight_bytes(shape: Sequence[int], bits: int, affine: bool, biased: bool) -> int:
    """Bytes of a weight [channels, ...]: packed, a float32 scale for each channel, a byte for a zero point, four for a bias.

    >>> weight_bytes((4, 3, 3, 3), 4, affine=True, biased=False), weight_bytes((4, 3, 3, 3), 32, affine=False, biased=True)
    (74, 448)
    """
    count, channels = math.prod(shape), shape[0]
    bias = 4 * channels if biased else 0
    if bits == FLOAT:
        return 4 * count + bias
    return -(-count * bits // 8) + 4 * channels + (channels if affine else 0) + bias


def allocate(losses: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int) -> list[int]:
    """Which choice each layer gets: the least summed loss whose summed cost is at most `budget`; of equal ones, a cheap one.

    Raises EdgekdError where nothing is cheap enough: ask for the sum of the least costs first.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = [len(one) for one in losses]
    starts = np.cumsum([0, *sizes])
    loss, cost = (np.array([v for one in values for v in one], float) for values in (losses, costs))
    one_each = np.zeros((len(sizes), int(starts[-1])))
    for row, start, size in zip(one_each, starts, sizes, strict=False):
        row[start : start + size] = 1.0
    objective = loss / (np.abs(loss).max() or 1.0) * RESOLUTION + cost / cost.sum() * 1e-3
    found = milp(
        objective,
        constraints=[
            LinearConstraint(cost[None] / budget, -np.inf, 1 + 1e-12),
            LinearConstraint(one_each, 1, 1),
        ],
        integrality=np.ones(len(loss)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise EdgekdError(f"the integer programme was not solved: {found.message}")
    return [int(np.argmax(found.x[start : start + size])) for start, size in zip(starts, sizes, strict=False)]


def planned(layers: Sequence[Layer], budget: SizeBudget) -> tuple[dict[str, int], dict[str, Any]]:
    """(bits of each layer, what the report says). Raises UserError for a budget that cannot be kept, or asks for nothing."""
    least, most = (sum(end(layer.bytes) for layer in layers) for end in (min, max))
    where = f"quantize: bits.budget.size {budget.size}"
    if budget.bytes < least:
        message = f"{where} cannot be kept: the least that the choices allow is {format_bytes(least)}"
        raise UserError(message, hint="allow more, or narrower choices; `first_last` holds the ends at 8 bits")
    if budget.bytes >= most:
        message = f"{where} asks for nothing: at the widest choices it is {format_bytes(most)}"
        raise UserError(message, hint="a lower one; or leave `bits` out")
    chosen = allocate([layer.losses for layer in layers], [layer.bytes for layer in layers], budget.bytes)
    rows: list[dict[str, Any]] = [
        {
            "layer": layer.name,
            "weights": layer.weights,
            "bits": layer.choices[index],
            "bytes": layer.bytes[index],
            "loss": layer.losses[index],
        }
        for layer, index in zip(layers, chosen, strict=True)
    ]
    facts = {
        "budget": budget.bytes,
        "bytes": sum(row["bytes"] for row in rows),
        "least": least,
        "most": most,
        "loss": sum(row["loss"] for row in rows),
        "layers": rows,
    }
    return {row["layer"]: row["bits"] for row in rows}, facts
