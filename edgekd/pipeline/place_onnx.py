"""Placements of an ONNX file, and of a quantized program as ONNX: pairs written around chosen operators of a float graph."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import onnx

from edgekd.backend import open_backend
from edgekd.cuts import FLOAT, Costs, Keep, Link
from edgekd.json_file import read_json
from edgekd.onnx import file as onnx_file
from edgekd.onnx.slim import outputs_of, slimmed
from edgekd.pipeline import onnx_steps
from edgekd.pipeline.place_bench import GIVEN, JUDGED, Programs
from edgekd.quant.lift import lift
from edgekd.quant.onnx_ptq import feeds
from edgekd.quant.onnx_tables import integer_tables
from edgekd.quant.pairs import place
from edgekd.quant.rebase import rebase
from edgekd.quant.rewrite import reductions_to_pools
from edgekd.quant.sites import Site, Span, links_of, numbered, ranges, sites_of

if TYPE_CHECKING:
    from edgekd.backend import Array
    from edgekd.pipeline.plan import Plan
    from edgekd.quant.lift import Held

KERNEL = r"(_nchwc|_token_\d+|/\w+/)+$"
"""What ONNX Runtime adds to the name of a node (or of what it makes) that it turned into another kernel."""
FIRST = 1e-6, 2e-10
"""Seconds of a conversion, and of each value in it, until one was measured."""


@final
@dataclass
class OnnxPrograms(Programs):
    """`model`: float, numbered; `feeds` are what quality is judged on.

    Of a quantized program, `held` has the scales and integers that it brought, and `came` is itself: what `GIVEN` stands for.
    `tables`: where anything is in integers, so are the rows of embedding tables.
    """

    model: onnx.ModelProto
    about: Mapping[str, Any]
    sites: Sequence[Site] = ()
    spans: Mapping[str, Span] = field(default_factory=dict)
    feeds: Sequence[Mapping[str, Array]] = ()
    held: Held | None = None
    came: onnx.ModelProto | None = None
    tables: bool = False

    def __post_init__(self) -> None:
        self.given = FLOAT if self.held is None else GIVEN
        self.covered = self.held is not None and self.held.covered_by(self.sites)

    def links(self) -> list[Link]:
        return links_of(self.model, self.sites)

    def program(self, keep: Keep) -> onnx.ModelProto:
        if keep == GIVEN and self.came is not None:
            return self.came
        placed = place(self.model, self.sites, keep, self.spans, self.held)
        if self.tables and keep:
            placed = integer_tables(placed)
        return placed if self.held is None else rebase(placed)

    def write(self, keep: Keep, out: Path) -> None:
        onnx_file.write_program(out, self.program(keep), dict(self.about), "int8" if keep else "float32")

    def outputs(self, keep: Keep) -> list[Array]:
        names = [value.name for value in self.model.graph.output]
        return [np.stack(one) for one in zip(*outputs_of(self.program(keep), names, self.feeds), strict=True)]

    def costs(self, keep: Keep, engine: Path, took: Mapping[str, float]) -> Costs | None:
        names = _names(onnx.load(engine), self.program(keep))
        if names is None:
            return None
        ours: dict[str, float] = {}
        for name, seconds in took.items():
            if known := names.get(re.sub(KERNEL, "", name)):
                ours[known] = ours.get(known, 0.0) + seconds
        return costs_of(self.sites, self.spans, keep, ours)


def of_file(plan: Plan, base: str, quantized: str, backend: str) -> OnnxPrograms:
    """Of a float file: pairs get the ranges that its samples show."""
    about = plan.student("student").signature
    names = [port["name"] for port in about["inputs"]]
    model = onnx.load(plan.entry(base).path / onnx_file.FILE)
    train, validation = (
        list(islice(feeds(model, dict(zip(names, onnx_steps.arrays(plan, split), strict=True))), most))
        for split, most in (("train", None), ("validation", JUDGED))
    )
    model = model if base != "student" else slimmed(model, train[0])
    reductions_to_pools(model)
    model = numbered(model)
    facts = plan.entry(quantized).facts
    spans = ranges(model, train, facts["observer"])
    sites = sites_of(model, open_backend(backend).integers, spans)
    return OnnxPrograms(model, about, sites, spans, validation, tables=facts["embeddings"] == 8)


def of_program(plan: Plan, base: str, backend: str) -> OnnxPrograms:
    """Of a quantized student: its own scales and integers, around its own weights in float."""
    folder = plan.entry(base).path
    program, about = onnx.load(folder / onnx_file.FILE), read_json(folder / "signature.json")
    (port,) = about["inputs"]
    validation = list(islice(feeds(program, {port["name"]: plan.arrays("validation")[0]}), JUDGED))
    model, held = lift(program)
    model = numbered(slimmed(model, validation[0]))
    held, spans = held.folded(model), ranges(model, validation[:1])
    sites = held.sites(model, open_backend(backend).integers, spans)
    return OnnxPrograms(model, about, sites, spans, validation, held, program)


def _names(engine: onnx.ModelProto, program: onnx.ModelProto) -> dict[str, str] | None:
    """The program's name of each of the engine's nodes, by its own name and by what it makes.

    None if they are not the same nodes in the same order.
    """
    ours, theirs = engine.graph.node, program.graph.node
    if [node.op_type for node in ours] != [node.op_type for node in theirs]:
        return None
    pairs = list(zip(ours, theirs, strict=True))
    return {**{name: b.name for a, b in pairs for name in a.output}, **{a.name: b.name for a, b in pairs}}


def costs_of(sites: Sequence[Site], spans: Mapping[str, Span], keep: Keep, took: Mapping[str, float]) -> Costs:
    """What a profile says. `took`: seconds by node of the program; what a kernel swallowed is not in it, and took nothing.

    A tensor whose conversion is not in the profile is guessed by those that are: a fixed cost, and one for each value, by least
    squares.
    """
    each = {site.name: sum(took.get(node, 0.0) for node in site.nodes) for site in sites}
    tables: dict[str, dict[str, float]] = {}
    for kind, suffix in (("quantize", "_q"), ("dequantize", "_qd")):
        seen = {name: took[name + suffix] for name in spans if name + suffix in took}
        fixed, slope = _line([(spans[name].size, seconds) for name, seconds in seen.items()])
        tables[kind] = {name: seen.get(name, fixed + slope * span.size) for name, span in spans.items()}
    return Costs(
        {name: seconds for name, seconds in each.items() if name not in keep},
        {name: seconds for name, seconds in each.items() if name in keep},
        **tables,
    )


def _line(points: Iterable[tuple[int, float]]) -> tuple[float, float]:
    """(seconds of none, seconds a value) through measured conversions, neither below zero; `FIRST` without any."""
    known = np.array(list(points), np.float64).reshape(-1, 2)
    if not len(known):
        return FIRST
    sizes, seconds = known.T
    if len(set(sizes)) > 1:
        slope, fixed = np.polyfit(sizes, seconds, 1)
        if slope >= 0 and fixed >= 0:
            return float(fixed), float(slope)
    fixed = min(FIRST[0], float(seconds.min()))
    return fixed, max(0.0, float(np.median((seconds - fixed) / sizes)))
