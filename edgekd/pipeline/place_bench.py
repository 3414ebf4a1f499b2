"""The bench of a placement search: engines of one float model, compiled with pairs around some operators, profiled and raced."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import onnx

from edgekd import digest, worker
from edgekd.backend import open_backend, read_engine
from edgekd.cuts import FLOAT, Costs, Keep
from edgekd.errors import EdgekdError, StoreError
from edgekd.latency.race import race
from edgekd.metric import sqnr
from edgekd.onnx import file as onnx_file
from edgekd.onnx.slim import outputs_of
from edgekd.pipeline.engines import plugins
from edgekd.placement import Bench, Compare
from edgekd.quant.pairs import place
from edgekd.quant.rebase import rebase
from edgekd.quant.sites import Site, Span

if TYPE_CHECKING:
    from edgekd.backend import Array
    from edgekd.latency.statistics import Ratio
    from edgekd.quant.lift import Held
    from edgekd.sections import MeasureSection

CALLS = 100  # of a profile; as many go before it
KERNEL = r"(_nchwc|_token_\d+|/\w+/)+$"
"""What ONNX Runtime adds to the name of a node (or of what it makes) that it turned into another kernel."""
GIVEN: Keep = frozenset({"the program as it came"})
"""The placement that a quantized program brings: no site is called so."""
FIRST = 1e-6, 2e-10
"""Seconds of a conversion, and of each value in it, until one was measured."""


@final
@dataclass
class Engines(Bench):
    """`model`: float, numbered; `feeds` are what quality is judged on; `folder` keeps the engines, also through a kill.

    Of a quantized program, `held` has the scales and integers that it brought, and `given` is itself: what `GIVEN` stands for.
    """

    model: onnx.ModelProto
    about: Mapping[str, Any]
    sites: Sequence[Site]
    spans: Mapping[str, Span]
    feeds: Sequence[Mapping[str, Array]]
    backend: str
    target: Mapping[str, Any]
    threads: int
    timing: MeasureSection
    seed: int
    timeout: float
    folder: Path
    held: Held | None = None
    given: onnx.ModelProto | None = None
    failed: dict[Keep, str] = field(default_factory=dict)
    _costs: dict[Keep, Costs | None] = field(default_factory=dict)
    _expected: list[list[Array]] = field(default_factory=list)

    def program(self, keep: Keep) -> onnx.ModelProto:
        if keep == GIVEN and self.given is not None:
            return self.given
        placed = place(self.model, self.sites, keep, self.spans, self.held)
        return placed if self.held is None else rebase(placed)

    def engine(self, keep: Keep) -> Path | None:
        """The engine's folder; None where it could not be made, with the reason in `failed`."""
        home = self.folder / digest.of_json(sorted(keep))[:16]
        done = home / "engine"
        if done.is_dir() or keep in self.failed:
            return None if keep in self.failed else done
        shutil.rmtree(home, ignore_errors=True)
        program, making = home / "program", home / "making"
        try:
            for each in (program, making):
                each.mkdir(parents=True)
            onnx_file.write_program(program, self.program(keep), dict(self.about), "int8" if keep else "float32")
        except OSError as error:
            raise StoreError(f"cannot write {home}: {error.strerror}", hint="free space, or --store FOLDER") from error
        request: dict[str, Any] = {
            "backend": self.backend,
            "program": str(program),
            "out": str(making),
            "target": dict(self.target),
        }
        request |= {"threads": self.threads, "plugins": plugins()}
        try:
            variables = {**worker.thread_env(self.threads), **open_backend(self.backend).variables()}
            worker.call("compile", request, env=variables, timeout=self.timeout)
        except EdgekdError as error:
            self.failed[keep] = error.message.partition("\n")[0]
            return None
        making.rename(done)
        return done

    def costs(self, keep: Keep) -> Costs | None:
        if keep not in self._costs:
            self._costs[keep] = self._profiled(keep)
        return self._costs[keep]

    def _profiled(self, keep: Keep) -> Costs | None:
        engine = self.engine(keep)
        if engine is None:
            return None
        request = {"engine": str(engine), "inputs": None, "calls": CALLS, "plugins": plugins()}
        try:
            answer = worker.call("profile", request, env=worker.thread_env(self.threads), timeout=self.timeout)
        except EdgekdError:
            return None
        rows = answer["operators"] or ()
        if not all("each" in row for row in rows):
            return None  # sums over nodes that cannot be told apart
        names = _names(onnx.load(read_engine(engine, self.backend)[1]), self.program(keep)) if rows else None
        if names is None:
            return None
        took: dict[str, float] = {}
        for row in rows:
            for name, seconds in row["each"].items():
                ours = names.get(re.sub(KERNEL, "", name))
                if ours:
                    took[ours] = took.get(ours, 0.0) + seconds
        return costs_of(self.sites, self.spans, keep, took)

    def race(self, keeps: Sequence[Keep], screening: bool = False) -> tuple[Mapping[Keep, float], Compare]:
        engines = {keep: folder for keep in keeps if (folder := self.engine(keep)) is not None}
        if FLOAT not in engines:
            raise EdgekdError(f"{self.backend}: {self.failed[FLOAT]}")
        names = {keep: f"placement {index}" for index, keep in enumerate(engines)}
        found = race(
            {names[keep]: folder for keep, folder in engines.items()},
            processes=1 if screening else self.timing.processes,
            seconds=self.timing.seconds / (4 if screening else 2),
            cold_starts=0,
            threads=self.threads,
            seed=self.seed,
            plugins=plugins(),
            wait=self.timing.wait,
        )
        medians = {keep: found.runners[name].latency(self.seed).median for keep, name in names.items()}

        def compare(a: Keep, b: Keep) -> Ratio:
            return found.ratio(names[a], names[b])

        return medians, compare

    def sqnr(self, keep: Keep) -> float:
        outputs = [value.name for value in self.model.graph.output]
        if not self._expected:
            self._expected = list(outputs_of(self.model, outputs, self.feeds))
        try:
            found = list(outputs_of(self.program(keep), outputs, self.feeds))
        except Exception:  # whatever the runtime raises: it cannot run this placement
            return -np.inf
        pairs = zip(zip(*found, strict=True), zip(*self._expected, strict=True), strict=True)
        return min((sqnr(np.stack(ours), np.stack(theirs)) for ours, theirs in pairs), default=np.inf)


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
