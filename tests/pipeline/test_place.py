"""Placements in a pipeline: an ONNX file whose engines are searched, raced and told of; and what a profile is read as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models as models
import pytest
from devices.boards import by_env
from onnx import numpy_helper
from project import made

from edgekd import api, registry
from edgekd.onnx import file as onnx_file
from edgekd.pipeline.candidates import candidate_of
from edgekd.pipeline.place_bench import FIRST, _line, _names, costs_of
from edgekd.pipeline.place_steps import left_as_it_came
from edgekd.pipeline.run import Outcome
from edgekd.quant.sites import Site, Span, numbered
from edgekd.scaffold import write_project
from edgekd.student import write_tensors

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


CODE = """
import torch
from torch import nn
from tiny import tiny_data

class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 12)

    def forward(self, x):
        y = self.conv(x)
        return (torch.relu(y) + y).flatten(1)

def student():
    torch.manual_seed(0)
    return Student()

def data():
    return tiny_data()
"""
RECIPE = """
[student]
factory = "added:student"
weights = "student.safetensors"
[data]
factory = "added:data"
[[stage]]
use = "quantize"
calibration = "train-128"
sensitivity = 0
[targets]
backends = ["waiting"]
[measure]
seconds = 0.02
processes = 1
wait = 0
"""
WAITING = '''"""ONNX Runtime behind a wait: 4 ms for a convolution in float, 2 ms for an addition in integers; so it is known what pays."""

import json
import time

import onnx

from edgekd.backend import Backend, Signature, read_engine
from edgekd.backends.onnxruntime import OnnxRuntime, OnnxRuntimeSession, _open

__all__ = ["Waiting"]


class Waits(OnnxRuntimeSession):
    seconds = 0.0

    def compute(self, inputs):
        time.sleep(self.seconds)
        return super().compute(inputs)


class Waiting(Backend):
    """Waits."""

    name = "waiting"
    packages = OnnxRuntime.packages
    integers = OnnxRuntime.integers

    def grid(self, target):
        return "affine"

    def unsupported(self, program, target):
        return []

    def compile(self, program, out, target, threads):
        facts = {**OnnxRuntime().compile(program, out, target, threads), "backend": self.name}
        (out / "engine.json").write_text(json.dumps(facts))
        return facts

    def load(self, engine):
        facts, file = read_engine(engine, self.name)
        model = onnx.load(file)
        dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        found = Waits(Signature.read(engine), _open(file, facts["options"]))
        for node in model.graph.node:
            found.seconds += 0.004 * (node.op_type == "Conv" and node.input[1] not in dequantized)
            found.seconds += 0.002 * (node.op_type == "Add" and {*node.input} <= dequantized)
        return found
'''


def weights_of(model: onnx.ModelProto) -> set[bytes]:
    """The s8 weights of its convolutions."""
    held = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    return {numpy_helper.to_array(tensor).tobytes() for tensor in held if len(tensor.dims) == 4}


def test_a_quantized_student_loses_the_pairs_that_cost_more_than_they_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its addition goes back to float, its convolution does not; the engine is then judged as any, and says what it is."""
    (tmp_path / "added.py").write_text(CODE)
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.setattr(registry, "_plugins", {**registry._plugins})
    registry.add_plugin(f"backends={tmp_path / 'waiting.py'}")
    monkeypatch.syspath_prepend(tmp_path)
    import added

    write_tensors(tmp_path / "student.safetensors", added.student().state_dict())
    plan = api.prepare(tmp_path / "recipe.toml", store=tmp_path / "store", quiet=True)
    assert [c.name for c in plan.candidates] == ["student on waiting", "quantize on waiting", "placed on waiting"]
    engine = plan.candidates[-1]
    made(plan, "student", "calibration for quantize", "quantize", "judge quantize, program", "export quantize")
    made(plan, engine.version.program, engine.step("compile"), engine.step("evaluate"))
    facts = plan.entry(engine.version.program).facts
    assert facts["why_not"] == ""
    assert {**facts["placement"]["operators"], "Reshape": 1} == {"Add": 1, "Conv": 1, "Reshape": 1}
    assert facts["placement"]["integers"]["Conv"] == 1 and "Add" not in facts["placement"]["integers"]
    told = candidate_of(plan, engine, Outcome(), [engine])
    assert told["note"].startswith("integers: 0 of 1 Add, 1 of 1 Conv")
    assert "the whole program (" in told["note"] and "gives the whole program's class for " in told["note"]
    assert told["parity"]["top1"] == 1.0 and told["parity"]["steps"] < 1.5  # of its own nodes, of which it is made
    assert told["precision"] == "int8" and told["integer_nodes"] >= 1
    programs = [onnx.load(plan.entry(n).path / "model.onnx") for n in ("export quantize", engine.version.program)]
    theirs, ours = (weights_of(model) for model in programs)
    assert theirs == ours and len(ours) == 1  # the same integers
    whole = np.load(plan.entry("judge quantize, program").path / "outputs.npz")["test"]
    found = np.load(plan.entry(engine.step("evaluate")).path / "outputs.npz")["test"]
    assert 0 < np.abs(found - whole).max() < 0.05 * np.ptp(whole)


def test_a_quantized_student_is_searched_for_where_pairs_are_read_and_measured(tmp_path: Path) -> None:
    recipe = write_project(tmp_path / "quarters_placed")[0]
    named = ["onnxruntime", "ncnn", "tvm"]

    def planned(*sets: str, **more: Any) -> Any:
        return api.prepare(recipe, overrides=list(sets), store=tmp_path / "store", quiet=True, backends=named, **more)

    plan = planned()
    (target,) = plan.targets
    assert [c.name for c in plan.placed] == ["placed on onnxruntime"]
    assert list(plan.steps).index("export quantize") < list(plan.steps).index("placed on onnxruntime for host")
    assert "no pairs were placed by measured cost for ncnn" in left_as_it_came(plan, target)
    assert not planned("targets.placement=false").placed
    by_env(recipe.parent)
    assert not planned(targets=["board.toml"]).placed  # this machine's engines would say nothing of it
