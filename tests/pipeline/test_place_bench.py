"""The bench of a placement search: what a profile is read as, and compilers that crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_models as models
import pytest
from quant import test_onnx_tables as onnx_tables

from edgekd import registry
from edgekd.backends.onnxruntime import INTEGERS
from edgekd.cuts import FLOAT
from edgekd.onnx import file as onnx_file
from edgekd.pipeline.place_bench import Engines
from edgekd.pipeline.place_onnx import FIRST, OnnxPrograms, _line, _names, costs_of
from edgekd.quant.sites import Site, Span, numbered, ranges, sites_of
from edgekd.sections import MeasureSection


def test_a_profile_is_read_by_site_and_what_it_lacks_is_on_a_line_through_what_it_has() -> None:
    sites = [Site(("n0", "n1"), "Conv", ("x",), "a"), Site(("n2",), "Conv", ("a",), "b")]
    spans = {"x": Span(0, 1, 100), "a": Span(0, 1, 200), "b": Span(0, 1, 400), "c": Span(0, 1, 1000)}
    took = {"n0": 5e-6, "n1": 1e-6, "n2": 2e-6, "x_q": 2e-6, "a_q": 3e-6, "n9": 1.0}
    found = costs_of(sites, spans, frozenset({"n2"}), took)
    assert found.floats == {"n0": pytest.approx(6e-6)}
    assert found.integers == {"n2": 2e-6}
    assert found.quantize["x"] == 2e-6
    assert found.quantize["c"] == pytest.approx(11e-6)  # 1 µs, and 10 ns a value
    assert found.dequantize["b"] == pytest.approx(1e-6 + 400 * 2e-10)  # none was seen


def test_conversions_that_grow_no_slower_with_size_have_no_negative_cost() -> None:
    """A line through them would cost less than nothing for large tensors, or for none: a fixed cost and the middle slope then."""
    assert _line([]) == FIRST
    assert _line([(100, 2e-6), (200, 3e-6)]) == (pytest.approx(1e-6), pytest.approx(1e-8))
    fixed, slope = _line([(100, 3e-6), (200, 2e-6)])  # at most 1 µs of nothing; then 20 ns and 5 ns a value
    assert (fixed, slope) == (1e-6, pytest.approx(12.5e-9))
    assert _line([(100, 0.5e-6)]) == (0.5e-6, 0.0)


def test_an_engines_nodes_are_the_programs_or_unknown(tmp_path: Path) -> None:
    program = numbered(onnx_file.load(models.convnet(tmp_path / "net.onnx")))
    engine = onnx_file.load(tmp_path / "net.onnx")
    engine.graph.node[0].name = "theirs"
    found = _names(engine, program)
    assert found is not None and found["theirs"] == found[engine.graph.node[0].output[0]] == "n0"
    del engine.graph.node[1]
    assert _names(engine, program) is None


def test_a_placed_files_embeddings_have_rows_of_integers_where_anything_has() -> None:
    model = numbered(onnx_tables.model(onnx_tables.table()))
    feeds = [{"i": one} for one in onnx_tables.tokens(4)]
    spans = ranges(model, feeds)
    sites = sites_of(model, INTEGERS, spans)
    (site,) = sites
    for tables in (True, False):
        programs = OnnxPrograms(model, {}, sites, spans, feeds, tables=tables)
        placed, plain = programs.program(frozenset({site.name})), programs.program(FLOAT)
        assert {t.name: t.data_type for t in placed.graph.initializer}.get("t_integers") == (3 if tables else None)
        assert [t.name for t in plain.graph.initializer] == ["t", "w"]
        onnx.checker.check_model(placed, full_check=True)


CRASHING = '''"""ONNX Runtime, but a crash of its compiler for a model with more than three quantizations."""

import os
import signal

import onnx

from edgekd.backends.onnxruntime import OnnxRuntime
from edgekd.backend import Backend
from edgekd.errors import EdgekdError

__all__ = ["Crashing"]


class Crashing(Backend):
    """Crashes."""

    name = "crashing"
    packages = OnnxRuntime.packages

    def grid(self, target):
        return "affine"

    def unsupported(self, program, target):
        return []

    def compile(self, program, out, target, threads):
        pairs = sum(node.op_type == "QuantizeLinear" for node in onnx.load(program / "model.onnx").graph.node)
        if pairs > 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if pairs == 3:
            raise EdgekdError("three are too many")
        return {**OnnxRuntime().compile(program, out, target, threads), "backend": self.name}

    def load(self, engine):
        raise NotImplementedError
'''


def test_a_placement_that_ends_the_compiler_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker compiles them all; after a crash the rest is compiled alone, so that the guilty one is known."""
    (tmp_path / "crashing.py").write_text(CRASHING)
    monkeypatch.setattr(registry, "_plugins", {**registry._plugins})
    registry.add_plugin(f"backends={tmp_path / 'crashing.py'}")
    model = onnx_file.load(models.convnet(tmp_path / "net.onnx"))
    onnx_file.fix_batch(model)
    model = numbered(model)
    feed = {"image": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    spans = ranges(model, [feed])
    sites = sites_of(model, INTEGERS, spans)
    ports = {
        side: [
            {"name": one.name, "shape": [d.dim_value for d in one.type.tensor_type.shape.dim], "dtype": "float32"}
            for one in found
        ]
        for side, found in (("inputs", model.graph.input), ("outputs", model.graph.output))
    }
    bench = Engines(
        OnnxPrograms(model, ports, sites, spans, [feed]),
        backend="crashing",
        target={"name": "host"},
        threads=1,
        timing=MeasureSection(),
        seed=0,
        timeout=60,
        folder=tmp_path / "work",
    )
    one, two, every = (frozenset(site.name for site in sites[:count]) for count in (1, 2, len(sites)))
    made = bench.engines([one, every, two, FLOAT])
    assert set(made) == {FLOAT, one}
    assert all((folder / "engine.json").is_file() for folder in made.values())
    assert set(bench.failed) == {two, every} and "SIGSEGV" in bench.failed[every]
    del bench.failed[every]
    assert not bench.engines([every]) and "SIGSEGV" in bench.failed[every]
    assert bench.failed[two] == "three are too many"
