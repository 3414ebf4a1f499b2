"""Embedding tables of ONNX files as int8 rows: by hand, in the runtime, and through the quantizer of files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.quant.onnx_ptq import quantize
from edgekd.quant.onnx_tables import LEAST, integer_tables, rounded

ROWS, WIDTH, LENGTH = 400, 48, 6
SHAPES = {"y": [1, LENGTH, 5], "t": [ROWS, WIDTH], "z": None}


def table(rows: int = ROWS) -> np.ndarray:
    """Rows of very different size, as those of rare words and of common ones."""
    random = np.random.default_rng(0)
    return (random.normal(size=(rows, WIDTH)) * np.logspace(-2, 1, rows)[:, None]).astype(np.float32)


def model(held: np.ndarray, more: Sequence[onnx.NodeProto] = (), outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    """tokens [1, 6] → y [1, 6, 5]: rows of a table by a matrix."""
    weight = np.random.default_rng(1).normal(size=(WIDTH, 5)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["t", "i"], ["x"], "look"), helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        [*nodes, *more],
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [1, LENGTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPES[name]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in {"t": held, "w": weight}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(made: onnx.ModelProto, tokens: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"i": tokens})[0])


def tokens(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, ROWS, (count, 1, LENGTH))


def sqnr(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()))


def test_rows_by_hand() -> None:
    held = np.zeros((LEAST // 2, 2), np.float32)
    held[0], held[1], held[2] = (0.127, -0.0014), (-254, 3), (0.5, 0.5)
    found = rounded(held)
    assert found is not None
    q, scales = found
    assert (q.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (LEAST // 2, 1))
    assert q[:4].tolist() == [[127, -1], [-127, 2], [127, 127], [0, 0]]  # 1.5 is rounded to even
    np.testing.assert_allclose(scales[:3, 0], [0.001, 2.0, 0.5 / 127], rtol=1e-6)
    assert rounded(held[:-1]) is None
    assert rounded(held.astype(np.float64)) is None
    assert rounded(held.reshape(-1)) is None
    held[5, 1] = np.nan
    assert rounded(held) is None


def test_the_runtime_looks_up_what_the_integers_stand_for() -> None:
    before, x = model(table()), tokens(1)[0]
    made = integer_tables(before)
    assert [t.name for t in before.graph.initializer] == ["t", "w"]  # the model that was given is as it was
    assert {t.name: t.data_type for t in made.graph.initializer} == {
        "w": TensorProto.FLOAT,
        "t_integers": TensorProto.INT8,
        "t_scales": TensorProto.FLOAT,
    }
    onnx.checker.check_model(made, full_check=True)
    held = rounded(table())
    assert held is not None
    np.testing.assert_allclose(run(made, x), run(model(held[0] * held[1]), x), rtol=1e-5, atol=1e-5)
    assert sqnr(run(made, x), run(before, x)) > 40
    assert before.ByteSize() - made.ByteSize() > 0.9 * ROWS * (WIDTH * 3 - 4)


@pytest.mark.parametrize(
    ("more", "outputs"),
    [
        ([helper.make_node("Transpose", ["t"], ["z"])], ["y", "z"]),
        ([helper.make_node("Gather", ["t", "i"], ["z"], axis=1)], ["y", "z"]),
        ([], ["y", "t"]),
    ],
    ids=["read whole", "by columns", "given out"],
)
def test_a_table_that_something_else_reads_stays(more: list[onnx.NodeProto], outputs: list[str]) -> None:
    made = integer_tables(model(table(), more, outputs))
    assert [t.name for t in made.graph.initializer] == ["t", "w"]
    assert made.graph.node == model(table(), more, outputs).graph.node


def test_rows_of_their_own_scale_keep_what_one_scale_for_the_table_loses() -> None:
    """ONNX Runtime's quantizer gives a table one scale: the words with small rows are lost beside the largest."""
    before, samples = model(table()), tokens(16)
    small = np.arange(LENGTH)[None]  # the rows of 0.01
    made = {kind: quantize(before, {"i": samples[:, 0]}, "affine", tables=kind == "rows") for kind in ("rows", "whole")}
    dtypes = {t.name: t.data_type for t in made["rows"].graph.initializer}
    assert dtypes["t_integers"] == TensorProto.INT8
    again = {kind: run(one, small) for kind, one in made.items()}
    looked = {kind: _rows(one, small) for kind, one in made.items()}
    assert sqnr(looked["rows"], table()[small]) > 40 > 5 > sqnr(looked["whole"], table()[small])
    assert again["rows"].shape == again["whole"].shape
    assert made["rows"].ByteSize() < 0.5 * before.ByteSize()


def _rows(made: onnx.ModelProto, index: np.ndarray) -> np.ndarray:
    """The rows that a quantized model looks up."""
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    if "t_integers" in held:
        return np.asarray(held["t_integers"][index] * held["t_scales"][index])
    pair = next(
        node for node in made.graph.node if node.op_type == "DequantizeLinear" and node.input[0].startswith("t")
    )
    values, scale, zero = (held[name].astype(np.float32) for name in pair.input)
    return np.asarray((values[index] - zero) * scale)
