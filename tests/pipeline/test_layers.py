"""Layers in float, from the recipe to the report: which, and what each costs, measured against engines that lack it."""

from __future__ import annotations

from pathlib import Path

from edgekd import api

CODE = """
import torch
from quant.test_control import outlier
from tiny import tiny_data

def student():
    return outlier()

def data():
    return tiny_data()
"""
RECIPE = """
[student]
factory = "broken:student"
weights = "student.safetensors"
[data]
factory = "broken:data"
[[stage]]
use = "quantize"
calibration = "train-128"
max_drop = 0.02
[targets]
placement = false
backends = ["onnxruntime"]
[measure]
seconds = 0.1
processes = 1
wait = 0
"""


def test_a_layer_in_float_is_raced_against_itself_quantized(tmp_path: Path) -> None:
    from quant.test_control import outlier

    from edgekd.student import write_tensors

    (tmp_path / "broken.py").write_text(CODE)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write_tensors(tmp_path / "student.safetensors", outlier().state_dict())
    found = api.compile(tmp_path / "recipe.toml", tmp_path / "out", store=tmp_path / "store")
    (shown,) = found["sensitivity"]
    assert shown["control"]["reverted"] == ["block.conv2"]
    assert shown["control"]["backend"] == "onnxruntime"
    assert shown["control"]["note"] == ""
    costs = {row["layer"]: row["cost"] for row in shown["layers"]}
    assert costs.pop("block.conv2")["low"] > 0
    assert set(costs.values()) == {None}
    assert {row["layer"]: row["bits"] for row in shown["layers"]}["block.conv2"] == 32
    assert "race layers of quantize" in [step["step"] for step in found["plan"]]
    engines = {one["name"]: one for one in found["targets"][0]["candidates"]}
    integer = engines["quantize on onnxruntime"]
    assert integer["metric_validation"] >= shown["control"]["expected"] - 0.02 - 0.011
    assert integer["float_nodes"] >= 1
    assert integer["integer_nodes"] >= 2
    text = (tmp_path / "out" / "report.md").read_text()
    assert "In float: block.conv2." in text


def test_what_they_cost_on_a_device_is_not_measured_here(tmp_path: Path) -> None:
    """This machine's engines would say nothing of it."""
    from devices.boards import by_env
    from quant.test_control import outlier

    from edgekd.student import write_tensors

    (tmp_path / "broken.py").write_text(CODE)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write_tensors(tmp_path / "student.safetensors", outlier().state_dict())
    by_env(tmp_path)
    for names, planned in ((["board.toml"], False), (["board.toml", "host"], True)):
        plan = api.prepare(tmp_path / "recipe.toml", store=tmp_path / "store", quiet=True, targets=names)
        assert "race on board" in plan.steps
        assert ("race layers of quantize" in plan.steps) is planned
