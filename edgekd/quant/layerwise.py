"""The quantize stage, layer by layer: what each one costs alone, how many bits it gets, which ones stay in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from edgekd.errors import EdgekdError
from edgekd.quant.bits import Bits, Layer, planned, weight_bytes
from edgekd.quant.control import fewest
from edgekd.quant.grid import named
from edgekd.quant.neighbours import first_and_last
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.quantizer import WEIGHTED
from edgekd.quant.sensitivity import (
    Unit,
    measure_of,
    sensitivities,
    units,
    weight_of,
    weight_sensitivities,
)
from edgekd.units import format_bytes

if TYPE_CHECKING:
    from edgekd.stage import Context

__all__ = ["choose_bits", "leave_in_float", "sensitivity"]

TRIED = 64
"""Calibration samples that bits are chosen by."""


def sensitivity(
    prepared: GraphModule, batches: list[torch.Tensor], samples: int, precision: Precision
) -> dict[str, Any]:
    """{"measure", "samples", "layers": [{"layer", "loss", "bits"}…]} of a calibrated graph, in the order of the network."""
    inputs = torch.cat(batches)[:samples]
    found = sensitivities(prepared, inputs)
    wide = {unit.name: _bits(unit) for unit in units(prepared)}
    with torch.no_grad():
        measure = measure_of(prepared(inputs[:2]))
    rows = [{"layer": layer, "loss": loss, "bits": wide[layer]} for layer, loss in found.items()]
    rows += [{"layer": k, "loss": None, "bits": bits} for k, bits in precision.layers.items() if bits == FLOAT]
    return {"measure": measure, "samples": len(inputs), "layers": rows}


def _bits(unit: Unit) -> int:
    return max(int(weight.quant_max).bit_length() + 1 for weight in unit.weights)


def choose_bits(
    prepared: GraphModule,
    batches: list[torch.Tensor],
    bits: Bits,
    precision: Precision,
    observer: str,
    context: Context,
) -> tuple[dict[str, int], dict[str, Any]]:
    """({layer: bits}, what the report says) for a graph calibrated at 8 bits. The plan is printed."""
    grid, inputs = named(context.grid), torch.cat(batches)[:TRIED]
    ends = first_and_last(prepared.graph.nodes, WEIGHTED)
    found = units(prepared)
    choices = {u.name: bits.of(precision.first_last if ends.intersection(u.nodes) else 2) for u in found}
    with context.progress.task(f"sensitivity of {len(found)} layers"):
        losses = weight_sensitivities(prepared, inputs, choices, grid, search=observer != "minmax")

    def layer(unit: Unit) -> Layer:
        held = weight_of(prepared, unit).shape
        biased = len(unit.nodes[0].args) > 2 and unit.nodes[0].args[2] is not None
        costs = [weight_bytes(held, b, not grid.weight_symmetric(b), biased) for b in choices[unit.name]]
        return Layer(unit.name, held.numel(), tuple(choices[unit.name]), tuple(costs), tuple(losses[unit.name]))

    plan, facts = planned([layer(unit) for unit in found], bits.budget)
    context.progress.say(f"  quantize: {format_bytes(facts['bytes'])} of {bits.budget.size} by this plan:")
    for width in sorted(set(plan.values()), reverse=True):
        names = [name for name, given in plan.items() if given == width]
        context.progress.say(f"    {'float' if width == FLOAT else f'{width} bits'}: {', '.join(names)}")
    return plan, {**facts, "samples": len(inputs)}


def leave_in_float(
    facts: Mapping[str, Any],
    expected: float,
    drop: float,
    scored: Callable[[Mapping[str, int]], float],
    context: Context,
) -> tuple[dict[str, int], dict[str, Any]]:
    """({layer: FLOAT} for the fewest that keep the metric, what the report says).

    `facts` holds the sensitivities and the metric as calibrated; `expected` is the float student's metric, `drop` what may
    be lost of it; `scored` calibrates the student anew with such layers in float.
    """
    before = facts["calibrated"]
    found: dict[frozenset[str], float] = {frozenset(): before}
    rows = sorted(facts["sensitivity"]["layers"], key=lambda row: -row["loss"])
    order = [row["layer"] for row in rows]

    def score(layers: frozenset[str]) -> float:
        if layers not in found:
            found[layers] = scored(dict.fromkeys(sorted(layers), FLOAT))
        return found[layers]

    def within(layers: frozenset[str]) -> bool:
        value = score(layers)
        context.progress.say(f"    {len(layers)} in float: {value:.4g}, float {expected:.4g}, {drop:g} less is allowed")
        return value >= expected - drop

    kept = fewest(order, within)
    after = score(frozenset(kept))
    if after < expected - drop:
        message = f"quantize: with every layer in float the metric is {after:.4g}, the student's {expected:.4g}"
        raise EdgekdError(
            message, hint=f"max_drop = {drop:g} is met by no plan; is the metric the same from run to run?"
        )
    said = ", ".join(kept) if kept else "no layer needs to"
    context.progress.say(f"  quantize: stay in float: {said} (metric {before:.4g} → {after:.4g}, float {expected:.4g})")
    facts_of = {"allowed": drop, "expected": expected, "before": before, "after": after, "reverted": kept}
    return dict.fromkeys(kept, FLOAT), {**facts_of, "tried": len(found) - 1}
