"""Weights alone in few bits: packed as ONNX Runtime's operator reads them, and a file with them, from command to bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models as models
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import api, registry
from edgekd.errors import RefusedError, UserError
from edgekd.onnx import file as onnx_file
from edgekd.quant.onnx_weights import grouped, only_weights, unpacked


def run(model: onnx.ModelProto, **feed: np.ndarray) -> np.ndarray:
    found: np.ndarray = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    return found


def linear(kind: str, weight: np.ndarray, bias: np.ndarray | None = None) -> onnx.ModelProto:
    """x [2, K] → y [2, N] by a weight [N, K]."""
    rows, columns = weight.shape
    held = {"w": weight.T if kind == "MatMul" else weight, **({} if bias is None else {"b": bias})}
    inputs = ["x", "w", *([] if bias is None else ["b"])]
    node = helper.make_node(kind, inputs, ["y"], **({"transB": 1} if kind == "Gemm" else {}))
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, rows])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_two_values_by_hand() -> None:
    """−1 … 14 in steps of 1 are 0 … 15 with zero point 1; 4-bit values lie two in a byte, the first in its low half."""
    weight = np.arange(-1, 15, dtype=np.float32)[None]
    packed, scales, zeros = grouped(weight, 4, 16)
    assert scales.tolist() == [[1.0]]
    assert zeros.tolist() == [[1]]
    assert packed.tolist() == [[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]]]
    assert np.array_equal(unpacked(packed, scales, zeros, 4, 16), weight)


@pytest.mark.parametrize("columns", [64, 48, 70])
@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_runtime_computes_with_the_weights_that_were_packed(bits: int, group: int, columns: int) -> None:
    """Odd numbers of groups too, whose zero points end in half a byte; and a last group that is not full."""
    random = np.random.default_rng(bits + group + columns)
    weight = random.normal(size=(5, columns)).astype(np.float32)
    weight[1] = np.abs(weight[1]) + 1
    weight[2] = 0
    rounded = unpacked(*grouped(weight, bits, group), bits, columns)
    assert np.abs(rounded - weight).max() <= 0.51 * (weight.max() - min(weight.min(), 0)) / (2**bits - 1) * 1.5
    x = random.normal(size=(2, columns)).astype(np.float32)
    found = only_weights(linear("MatMul", weight), bits, group)
    assert [node.op_type for node in found.graph.node] == ["MatMulNBits"]
    assert np.allclose(run(found, x=x), x @ rounded.T, rtol=1e-5, atol=1e-4)
    again = unpacked(*grouped(rounded, bits, group), bits, columns)
    assert np.allclose(again, rounded, atol=1e-6)  # rounding what is rounded changes nothing


def test_a_bias_is_added_and_its_name_kept() -> None:
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, 32)).astype(np.float32), random.normal(size=3).astype(np.float32)
    x = random.normal(size=(2, 32)).astype(np.float32)
    found = only_weights(linear("Gemm", weight, bias), 8, 32)
    assert [node.op_type for node in found.graph.node] == ["MatMulNBits", "Add"]
    assert {tensor.name for tensor in found.graph.initializer} >= {"b"}
    assert "w" not in {tensor.name for tensor in found.graph.initializer}
    assert np.abs(run(found, x=x) - (x @ weight.T + bias)).max() < 0.05


def test_what_has_no_such_layer_is_refused() -> None:
    with pytest.raises(RefusedError, match="32 inputs or more"):
        only_weights(linear("MatMul", np.ones((3, 31), np.float32)), 4, 32)


def wide(path: Path) -> Path:
    """x [batch, 256] → scores [batch, 8] through two wide layers."""
    weights = {"w1": models.random(256, 256), "w2": models.random(256, 8, seed=1)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["scores"]),
    ]
    inputs, outputs = [models.port("x", models.FLOAT, ["n", 256])], [models.port("scores", models.FLOAT, ["n", 8])]
    onnx.save(models.model(nodes, inputs, outputs, weights), path)
    return path


def compiled(tmp_path: Path, backends: list[str], **stage: Any) -> dict[str, Any]:
    wide(tmp_path / "wide.onnx")
    fields = "".join(f"{k} = {v!r}\n".replace("'", '"') for k, v in stage.items())
    (tmp_path / "recipe.toml").write_text(
        '[student]\nuse = "onnx"\nweights = "wide.onnx"\n[data]\nuse = "noise"\ncount = 48\n'
        f'[[stage]]\nuse = "quantize_onnx"\n{fields}'
        "[measure]\nseconds = 0.05\nprocesses = 1\nwait = 0\n"
    )
    return api.compile(tmp_path / "recipe.toml", tmp_path / "out", backends=backends, store=tmp_path / "store")


def test_a_file_becomes_an_engine_with_packed_weights_and_other_backends_say_why_not(tmp_path: Path) -> None:
    found = compiled(tmp_path, ["onnxruntime", "torch"], weight_only="int4", group=32)
    (target,) = found["targets"]
    engines = {one["name"]: one for one in target["candidates"]}
    narrow, whole = engines["quantize_onnx on onnxruntime"], engines["student on onnxruntime"]
    assert narrow["precision"] == "W4A32"
    assert narrow["bytes"] < 0.22 * whole["bytes"]
    assert narrow["latency"]["median"] > 0
    assert narrow["verdict"] in ("chosen", "kept")
    assert narrow["parity"]["top1"] == 1.0
    assert narrow["metric"] > 0.7
    assert "2 linear layers" in found["ledger"][1]["note"]
    assert engines["quantize_onnx on torch"]["verdict"] == "failed"
    assert "no graph for torch" in engines["quantize_onnx on torch"]["reason"]


@pytest.mark.parametrize("fields", [{"weight_only": "int2"}, {"weight_only": "int4", "group": 24}])
def test_wrong_fields(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="quantize_onnx"):
        registry.build("stages", "quantize_onnx", fields)


def test_a_file_with_such_weights_is_taken_as_quantized(tmp_path: Path) -> None:
    model = only_weights(onnx_file.load(wide(tmp_path / "wide.onnx")), 4, 32)
    assert onnx_file.quantized(model)
    assert not onnx_file.quantizable(model)
