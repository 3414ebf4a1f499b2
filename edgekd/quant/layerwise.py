"""The quantize stage, layer by layer: what each one costs alone, how many bits it gets, which ones stay in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from edgekd.errors import EdgekdError, UserError
from edgekd.pruning.budget import allowed_seconds
from edgekd.quant.bits import Layer, choice_bytes, meet, planned, told
from edgekd.quant.control import fewest
from edgekd.quant.grid import named
from edgekd.quant.methods import WAYS, Bits, Budget, Choice, width
from edgekd.quant.neighbours import first_and_last
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.quantizer import WEIGHTED, without_kernels
from edgekd.quant.sensitivity import Unit, choice_losses, measure_of, narrows, sensitivities, units, weight_of
from edgekd.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgekd.latency.layer_times import Times
    from edgekd.stage import Context

__all__ = ["choose_bits", "in_float_for_want_of_kernels", "leave_in_float", "sensitivity"]

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
    rows += [{"layer": k, "loss": None, "bits": bits} for k, bits in precision.grouped.items()]
    return {"measure": measure, "samples": len(inputs), "layers": rows}


def _bits(unit: Unit) -> int:
    return max(int(weight.quant_max).bit_length() + 1 for weight in unit.weights)


def in_float_for_want_of_kernels(prepared: GraphModule, context: Context) -> dict[str, str]:
    """Layers that stay in float since no runtime here multiplies them in integers, operator by name; said to the user.

    Raises UserError where no other layer is left.
    """
    found = without_kernels(prepared)
    said = ", ".join(f"{name} ({operator})" for name, operator in found.items())
    if not units(prepared):
        message = (
            f"quantize: no layer of the student can be quantized: {said or 'none multiplies by weights of its own'}"
        )
        hint = "integer kernels multiply two-dimensional convolutions and linear layers; leave the stage out"
        raise UserError(message, hint=hint)
    if found:
        context.progress.say(f"  quantize: in float, for want of integer kernels: {said}")
    return found


def choose_bits(
    prepared: GraphModule,
    batches: list[torch.Tensor],
    bits: Bits,
    precision: Precision,
    observer: str,
    context: Context,
) -> tuple[dict[str, Choice], dict[str, Any]]:
    """({layer: what it gets}, what the report says) for a graph calibrated at 8 bits. The plan is printed."""
    grid, inputs = named(context.grid), torch.cat(batches)[:TRIED]
    ends = first_and_last(prepared.graph.nodes, WEIGHTED)
    found = units(prepared)
    least = {unit.name: precision.first_last if ends.intersection(unit.nodes) else 2 for unit in found}
    choices = {unit.name: bits.of(least[unit.name], narrows(prepared, unit)) for unit in found}
    times = context.times() if bits.timed else None
    with context.progress.task(f"sensitivity of {len(found)} layers"):
        losses = choice_losses(prepared, inputs, choices, grid, search=observer != "minmax", whole=times is not None)

    def layer(unit: Unit) -> Layer:
        held, its, name = weight_of(prepared, unit).shape, choices[unit.name], unit.name
        biased = len(unit.nodes[0].args) > 2 and unit.nodes[0].args[2] is not None
        costs = [choice_bytes(held, choice, grid.weight_symmetric, biased) for choice in its]
        more = () if times is None else tuple(times.layers[name][WAYS[c]] if c in WAYS else 0.0 for c in its)
        return Layer(name, held.numel(), tuple(its), tuple(costs), tuple(losses[name]), more)

    layers = [layer(unit) for unit in found]
    plan, facts = planned(layers, bits.budget) if times is None else _timed(layers, bits.budget, times, context)
    said = [f"{format_bytes(facts['bytes'])} of {bits.budget.size}"] if bits.budget.size else []
    if (time := facts["latency"]) is not None:
        there = f"predicted {format_seconds(time['predicted'])}, measured {format_seconds(time['measured'])}"
        said.append(f"{there} of {format_seconds(time['allowed'])} on {time['backend']}")
    context.progress.say(f"  quantize: {', '.join(said)} by this plan:")
    for choice in sorted(set(plan.values()), key=lambda one: (-width(one), isinstance(one, str))):
        names = [name for name, given in plan.items() if given == choice]
        alone = f"weights alone in {width(choice)} bits" if isinstance(choice, str) else f"{choice} bits"
        context.progress.say(f"    {'float' if choice == FLOAT else alone}: {', '.join(names)}")
    return plan, {**facts, "samples": len(inputs)}


def _timed(
    layers: list[Layer], budget: Budget, times: Times, context: Context
) -> tuple[dict[str, Choice], dict[str, Any]]:
    """The same under a latency: planned by the table, then measured."""
    allowed = allowed_seconds(budget.latency, times.fastest, below=1.0)
    if allowed >= times.whole and not budget.size:
        whole = f"the float student takes {format_seconds(times.whole)} on {times.backend}"
        message = f"quantize: bits.budget.latency {budget.latency} asks for nothing: {whole}"
        raise UserError(message, hint='a lower one, as "0.7x"; or leave `bits` out')

    def measure(given: Mapping[str, Choice]) -> float:
        ways: dict[str, list[str]] = {}
        for name, choice in given.items():
            if choice in WAYS:
                ways.setdefault(WAYS[choice], []).append(name)
        return times.measure(ways)

    best, tried = meet(layers, budget.bytes, times.quantized, allowed, measure)
    for one in tried:
        count = sum(layer.choices[i] == 8 for layer, i in zip(layers, one.chosen, strict=True))
        there = f"predicted {format_seconds(one.predicted)}, measured {format_seconds(one.measured)}"
        context.progress.say(f"  quantize: {count} of {len(layers)} layers quantized: {there}")
    plan, facts = told(layers, best.chosen, budget)
    latency = {
        "budget": budget.latency,
        "backend": times.backend,
        "allowed": allowed,
        "whole": times.whole,
        "quantized": times.quantized,
        "predicted": best.predicted,
        "measured": best.measured,
        "tried": len(tried),
    }
    return plan, {**facts, "latency": latency}


def leave_in_float(
    sensitivity: Mapping[str, Any],
    before: float,
    expected: float,
    drop: float,
    anew: Callable[[frozenset[str]], float],
    guessed: Callable[[frozenset[str]], float] | None,
    context: Context,
) -> tuple[frozenset[str], dict[str, Any]]:
    """The fewest layers in float that keep the metric, and what the report says.

    `before`: the metric with every layer quantized; `expected` the float student's, of which `drop` may be lost. `anew` makes the
    student with such layers in float and gives its metric. Where that takes long, `guessed` says what it might be: then the layers
    are found by guesses and made anew once; where that is not within the drop, one more of the most sensitive stays in float, then
    two more, four, and so on, made anew each time.
    """
    known: dict[frozenset[str], float] = {frozenset(): before}
    rows = sorted((row for row in sensitivity["layers"] if row["loss"] is not None), key=lambda row: -row["loss"])
    order = [row["layer"] for row in rows]
    ask = guessed or anew

    def within(layers: frozenset[str]) -> bool:
        if layers not in known:
            known[layers] = ask(layers)
        value, how = known[layers], "guessed " if guessed and layers else ""
        context.progress.say(
            f"    {len(layers)} in float: {how}{value:.4g}, float {expected:.4g}, {drop:g} less is allowed"
        )
        return value >= expected - drop

    kept = fewest(order, within) if guessed is None else context.world().agreed(lambda: fewest(order, within))
    made, more, set_ = 0, 1, frozenset(kept)
    after = known[set_] if not kept or (guessed is None and set_ in known) else anew(set_)
    while after < expected - drop and len(kept) < len(order):
        made, kept = made + 1, [*kept, *[one for one in order if one not in kept][:more]]
        context.progress.say(f"    made anew it is {after:.4g}: {len(kept)} in float now")
        after, more = anew(frozenset(kept)), 2 * more
    if after < expected - drop:
        message = f"quantize: with every layer in float the metric is {after:.4g}, the student's {expected:.4g}"
        hint = f"max_drop = {drop:g} is met by no plan; is the metric the same from run to run, and does qat keep it?"
        raise EdgekdError(message, hint=hint)
    said = ", ".join(kept) if kept else "no layer needs to"
    context.progress.say(f"  quantize: stay in float: {said} (metric {before:.4g} → {after:.4g}, float {expected:.4g})")
    tried = len(known) - 1 + made + bool(guessed and kept)
    facts = {"allowed": drop, "expected": expected, "before": before, "after": after, "reverted": kept, "tried": tried}
    return frozenset(kept), facts
