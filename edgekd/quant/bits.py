"""Bits of each layer under a budget of bytes, of time, or of both, chosen together by an integer programme.

    minimise  Σ_l Σ_b loss_lb x_lb    subject to  Σ cost_lb x_lb ≤ budget of each kind,  Σ_b x_lb = 1,  x binary

loss_lb is what was measured with layer l alone at b bits; that losses add up is the assumption of Cai et al. 2020 (ZeroQ, arXiv
2001.00281, section 3.2), where cost_lb is bytes, or time that was tabled. Solved by HiGHS to proven optimality, as
`edgekd/pruning/allocation.py`; a plan under a latency is measured, and made again where it misses its prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekd.errors import EdgekdError, UserError
from edgekd.quant.methods import NARROW, Budget, Choice, width
from edgekd.quant.precision import FLOAT, GROUP, Precision
from edgekd.units import format_bytes, format_seconds

__all__ = ["Layer", "Plan", "allocate", "choice_bytes", "meet", "mixed", "planned", "told", "weight_bytes"]

RESOLUTION = 1e6
"""The largest loss in units of the objective: HiGHS takes two plans for equal within 10⁻⁶."""
TOLERANCE, TRIES = 0.05, 4
"""How far above the budget a plan may be measured, and how many are."""


@dataclass(frozen=True)
class Layer:
    """A layer in the programme: its choices with the bytes and the loss of each; `weights` is how many it has.

    `seconds`: that the whole student takes more with this layer so than with it at 8 bits, as tabled; empty where none are asked for.
    """

    name: str
    weights: int
    choices: tuple[Choice, ...]
    bytes: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The index of each layer's choice; the seconds of it as tabled, and as measured."""

    chosen: tuple[int, ...]
    predicted: float
    measured: float


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


def choice_bytes(shape: Sequence[int], choice: Choice, symmetric: Callable[[int], bool], biased: bool) -> int:
    """The same of any choice; `symmetric` says whether weights of so many bits have no zero points.

    Of ten rows, each 32 bytes packed, two scales, a byte of zero points and a bias:

    >>> choice_bytes((10, 64), "int4", lambda bits: True, biased=True)
    450
    """
    if isinstance(choice, int):
        return weight_bytes(shape, choice, not symmetric(choice), biased)
    rows, groups = shape[0], -(-shape[1] // GROUP)
    packed, zeros = groups * GROUP * width(choice) // 8, -(-groups * width(choice) // 8)
    return rows * (packed + 4 * groups + zeros + 4 * biased)


Costs = tuple[Sequence[Sequence[float]], float]
"""(what each choice of each layer costs, what all may together)"""


def allocate(losses: Sequence[Sequence[float]], *limits: Costs) -> list[int]:
    """Which choice each layer gets: the least summed loss within every limit; of equal ones, a cheap one.

    Raises EdgekdError where nothing is cheap enough: ask for the sum of the least costs first.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = [len(one) for one in losses]
    starts = np.cumsum([0, *sizes])
    loss = np.array([value for one in losses for value in one], float)
    one_each = np.zeros((len(sizes), int(starts[-1])))
    for row, start, size in zip(one_each, starts, sizes, strict=False):
        row[start : start + size] = 1.0
    objective, within = loss / (np.abs(loss).max() or 1.0) * RESOLUTION, []
    for costs, budget in limits:
        cost = np.array([value for one in costs for value in one], float)
        objective = objective + cost / (cost.sum() or 1.0) * 1e-3
        within.append(LinearConstraint(cost[None] / budget, -np.inf, 1 + 1e-12))
    found = milp(
        objective,
        constraints=[*within, LinearConstraint(one_each, 1, 1)],
        integrality=np.ones(len(loss)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        message = f"no plan is within every budget: {found.message}"
        raise (
            UserError(f"quantize: bits: {message}", hint="allow more of one of them")
            if len(limits) > 1
            else EdgekdError(message)
        )
    return [int(np.argmax(found.x[start : start + size])) for start, size in zip(starts, sizes, strict=False)]


def meet(
    layers: Sequence[Layer], budget: int, base: float, allowed: float, measure: Callable[[Mapping[str, Choice]], float]
) -> tuple[Plan, list[Plan]]:
    """The plan of the least loss that was measured within `allowed` seconds, and all that were tried.

    `budget` in bytes, 0: none. `base`: seconds of the student with every layer at 8 bits; `measure` gives those with each layer as
    chosen. Where a plan misses its prediction by more than 5%, the table is corrected by that factor and the plan made
    again, at most three times; that of the least time is the last that is tried. Raises UserError where even that measures more
    than 5% above what is allowed.
    """
    losses, share = [layer.losses for layer in layers], base / len(layers)
    seconds = [[share + more for more in layer.seconds] for layer in layers]
    sizes: list[Costs] = [([layer.bytes for layer in layers], budget)] if budget else []
    most = allowed * (1 + TOLERANCE)
    tried: list[Plan] = []

    def attempt(chosen: Sequence[int]) -> Plan:
        given = {layer.name: layer.choices[i] for layer, i in zip(layers, chosen, strict=True)}
        predicted = sum(one[i] for one, i in zip(seconds, chosen, strict=True))
        tried.append(Plan(tuple(chosen), predicted, measure(given)))
        return tried[-1]

    factor = 1.0
    while len(tried) < TRIES and allowed / factor >= sum(map(min, seconds)):
        chosen = tuple(allocate(losses, (seconds, allowed / factor), *sizes))
        if chosen in [plan.chosen for plan in tried]:
            break
        now = attempt(chosen)
        factor = now.measured / now.predicted
        if abs(factor - 1) <= TOLERANCE and now.measured <= most:
            break
    fastest = tuple(min(range(len(one)), key=one.__getitem__) for one in seconds)
    if all(plan.measured > most for plan in tried) and fastest not in [plan.chosen for plan in tried]:
        attempt(fastest)
    kept = [plan for plan in tried if plan.measured <= most]
    if not kept:
        there = f"the least that was measured is {format_seconds(min(plan.measured for plan in tried))}"
        message = f"quantize: bits.budget.latency, {format_seconds(allowed)}, cannot be kept: {there}"
        raise UserError(message, hint="allow more, or take a smaller student")
    return min(kept, key=lambda plan: sum(loss[i] for loss, i in zip(losses, plan.chosen, strict=True))), tried


def planned(layers: Sequence[Layer], budget: Budget) -> tuple[dict[str, Choice], dict[str, Any]]:
    """`told` of the plan within a budget of bytes. Raises UserError for one that cannot be kept, or asks for nothing."""
    least, most = (sum(end(layer.bytes) for layer in layers) for end in (min, max))
    where = f"quantize: bits.budget.size {budget.size}"
    if budget.bytes < least:
        message = f"{where} cannot be kept: the least that the choices allow is {format_bytes(least)}"
        raise UserError(message, hint="allow more, or narrower choices; `first_last` holds the ends at 8 bits")
    if budget.bytes >= most:
        message = f"{where} asks for nothing: at the widest choices it is {format_bytes(most)}"
        raise UserError(message, hint="a lower one; or leave `bits` out")
    chosen = allocate([layer.losses for layer in layers], ([layer.bytes for layer in layers], budget.bytes))
    return told(layers, chosen, budget)


def told(layers: Sequence[Layer], chosen: Sequence[int], budget: Budget) -> tuple[dict[str, Choice], dict[str, Any]]:
    """(what each layer gets, what the report says) of a plan."""
    rows: list[dict[str, Any]] = [
        {
            "layer": layer.name,
            "weights": layer.weights,
            "bits": width(layer.choices[index]),
            "weight_only": layer.choices[index] in NARROW,
            "bytes": layer.bytes[index],
            "loss": layer.losses[index],
        }
        for layer, index in zip(layers, chosen, strict=True)
    ]
    facts = {
        "budget": budget.bytes or None,
        "bytes": sum(row["bytes"] for row in rows),
        "least": sum(min(layer.bytes) for layer in layers),
        "most": sum(max(layer.bytes) for layer in layers),
        "loss": sum(row["loss"] for row in rows),
        "latency": None,
        "layers": rows,
    }
    return {layer.name: layer.choices[index] for layer, index in zip(layers, chosen, strict=True)}, facts


def mixed(precision: Precision, given: Mapping[str, Choice]) -> Precision:
    """The precision with what each layer gets."""
    layers = {name: choice for name, choice in given.items() if isinstance(choice, int)}
    grouped = {name: width(choice) for name, choice in given.items() if choice in NARROW}
    return replace(precision, layers=layers, grouped=grouped)
