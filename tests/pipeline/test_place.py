"""Placements in a pipeline: an ONNX file whose engines are searched, raced and told of; and what a profile is read as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_models as models
import pytest

from edgekd import api
from edgekd.onnx import file as onnx_file
from edgekd.pipeline.place_bench import FIRST, _line, _names, costs_of
from edgekd.quant.sites import Site, Span, numbered

BRIEF = ["measure.seconds=0.05", "measure.processes=1", "measure.wait=0", "data.count=32", "budget.metric_drop=1000"]


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


def compiled(tmp_path: Path, *more: str) -> dict[str, Any]:
    (tmp_path / "net.onnx").exists() or models.convnet(tmp_path / "net.onnx")
    return api.compile(
        tmp_path / "net.onnx",
        tmp_path / "out",
        overrides=[*BRIEF, *more],
        backends=["onnxruntime"],
        store=tmp_path / "store",
    )


def test_a_file_is_placed_and_the_search_is_not_made_again(tmp_path: Path) -> None:
    found = compiled(tmp_path, "budget.sqnr=20")
    (target,) = found["targets"]
    engines = {one["name"]: one for one in target["candidates"]}
    assert list(engines) == [
        "student on onnxruntime",
        "quantize_onnx on onnxruntime",
        "rewritten on onnxruntime",
        "placed on onnxruntime",
    ]
    assert engines["rewritten on onnxruntime"]["verdict"] == "rejected"
    assert engines["rewritten on onnxruntime"]["reason"] == "no rewrite applies to this graph"
    assert engines["quantize_onnx on onnxruntime"]["sqnr_validation"] > 20
    placed = engines["placed on onnxruntime"]
    assert placed["placement"]["operators"] == {"Conv": 2, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1}
    assert placed["placement"]["engines"] >= 4
    if placed["verdict"] == "rejected" and placed["latency"] is None:
        assert "no quantize/dequantize pair pays: the best of" in placed["reason"]
    else:
        assert placed["sqnr"] > 20
        assert sum(placed["placement"]["integers"].values()) >= 1
        assert all(one["without"]["point"] > 0 for one in placed["placement"]["islands"])
        assert placed["note"].startswith("integers: ")
    again = {step["step"]: step["cached"] for step in compiled(tmp_path, "budget.sqnr=20")["plan"]}
    assert again["placed on onnxruntime for host"]
    assert again["rewritten on onnxruntime for host"]


def test_a_search_can_be_left_out(tmp_path: Path) -> None:
    file = models.convnet(tmp_path / "net.onnx")
    named = {
        kind: [
            c.name
            for c in api.prepare(
                file,
                overrides=[f"targets.placement={kind}"],
                backends=["onnxruntime"],
                store=tmp_path / "store",
            ).candidates
        ]
        for kind in ("true", "false")
    }
    assert named["false"] == ["student on onnxruntime", "quantize_onnx on onnxruntime"]
    assert named["true"] == [*named["false"], "rewritten on onnxruntime", "placed on onnxruntime"]
