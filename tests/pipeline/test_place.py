"""Placements in a pipeline: an ONNX file, or a quantized student, whose engines are searched, raced and told of."""

from __future__ import annotations

import shutil
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
from edgekd.pipeline import run
from edgekd.pipeline.candidates import candidate_of
from edgekd.pipeline.place_steps import left_as_it_came
from edgekd.pipeline.run import Outcome
from edgekd.scaffold import write_project
from edgekd.student import write_tensors

BRIEF = ["measure.seconds=0.05", "measure.processes=1", "measure.wait=0", "data.count=32", "budget.metric_drop=1000"]


def compiled(tmp_path: Path, *more: str) -> dict[str, Any]:
    (tmp_path / "net.onnx").exists() or models.convnet(tmp_path / "net.onnx")
    return api.compile(
        tmp_path / "net.onnx",
        tmp_path / "out",
        overrides=[*BRIEF, *more],
        backends=["onnxruntime"],
        store=tmp_path / "store",
    )


def test_a_file_is_placed_and_the_search_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    asked: list[object] = []
    monkeypatch.setattr(run, "_check", asked.append)
    again = {step["step"]: step["cached"] for step in compiled(tmp_path, "budget.sqnr=20")["plan"]}
    assert asked == [], "nothing is left to make, though one engine never is: no stage is tried, and torch stays out"
    (race,) = (entry for entry in (tmp_path / "store").rglob("entry.json") if "race on" in entry.read_text("utf-8"))
    shutil.rmtree(race.parent)
    compiled(tmp_path, "budget.sqnr=20")
    assert len(asked) == 1, (
        "a race of the other engines that is left to make is made with all that goes before any work"
    )
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


OF_GRAPH = '''"""torch behind ten times that wait, on the program as a graph: its operators, one by one, take milliseconds too."""

import shutil
import time

from edgekd.backend import Backend, Signature, read_engine, write_engine
from edgekd.backends.torch import FILES, TorchSession
from edgekd.quant.torch_graph import read_graph

__all__ = ["Waiting"]


class Waits(TorchSession):
    seconds = 0.0

    def compute(self, inputs):
        time.sleep(self.seconds)
        return super().compute(inputs)


class Waiting(Backend):
    """Waits."""

    name = "waiting"
    packages = {"torch": "torch"}
    integers = frozenset({"Conv", "Add", "Reshape"})
    of_graph = True

    def grid(self, target):
        return "affine"

    def unsupported(self, program, target):
        return []

    def compile(self, program, out, target, threads):
        for name in FILES:
            shutil.copyfile(program / name, out / name)
        nodes = read_graph(out).graph.nodes
        integers = sum("dequantize_per_channel" in str(node.target) for node in nodes)
        facts = {"backend": self.name, "file": FILES[0], "versions": {}, "threads": threads, "options": {}}
        return write_engine(program, out, {**facts, "integer_nodes": integers, "float_nodes": 1 - integers})

    def load(self, engine):
        facts, file = read_engine(engine, self.name)
        graph = read_graph(engine)
        found = Waits(Signature.read(engine), graph)
        for node in graph.graph.nodes:
            made = [str(one.target) for one in node.all_input_nodes]
            found.seconds += 0.04 * ("conv2d" in str(node.target) and not any("per_channel" in name for name in made))
            found.seconds += 0.02 * ("add.Tensor" in str(node.target) and all("dequantize" in name for name in made))
        return found
'''


def weights_of(model: onnx.ModelProto) -> set[bytes]:
    """The s8 weights of its convolutions."""
    held = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    return {numpy_helper.to_array(tensor).tobytes() for tensor in held if len(tensor.dims) == 4}


@pytest.mark.parametrize("code", [WAITING, OF_GRAPH], ids=["onnx", "graph"])
def test_a_quantized_student_loses_the_pairs_that_cost_more_than_they_save(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its addition goes back to float, its convolution does not; the engine is then judged as any, and says what it is."""
    (tmp_path / "added.py").write_text(CODE)
    (tmp_path / "waiting.py").write_text(code)
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
