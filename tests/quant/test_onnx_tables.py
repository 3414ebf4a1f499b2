"""Embedding tables of ONNX files as int8 rows: by hand, in the runtime, and through the quantizer of files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.quant.onnx_ptq import quantize
from edgekd.quant.onnx_tables import LEAST, integer_tables, integers_of, worth_rows

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
    q, scales = integers_of(np.array([[0.127, -0.0014], [-254, 3], [0.5, 0.5], [0, 0]], np.float32))
    assert (q.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (4, 1))
    assert q.tolist() == [[127, -1], [-127, 2], [127, 127], [0, 0]]  # 1.5 is rounded to even
    np.testing.assert_allclose(scales[:3, 0], [0.001, 2.0, 0.5 / 127], rtol=1e-6)


def test_a_table_must_save_bytes() -> None:
    """Of a row's 4 · width bytes, width and the 4 of its scale are left."""
    assert worth_rows((LEAST // (3 * 32 - 4) + 1, 32))
    assert not worth_rows((LEAST // (3 * 32 - 4), 32))
    assert not worth_rows((10**6, 1))  # 5 bytes in place of 4
    assert not worth_rows((LEAST,))
    assert not worth_rows((LEAST, 4, 4))


@pytest.mark.parametrize("change", ["float64", "not a number"])
def test_what_is_no_plain_float_stays(change: str) -> None:
    held = table()
    held = held.astype(np.float64) if change == "float64" else np.where(held == held[5, 1], np.float32("nan"), held)
    assert [t.name for t in integer_tables(model(held)).graph.initializer] == ["t", "w"]


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
    held = integers_of(table())
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


def test_the_quantizer_of_files_leaves_tables_to_us() -> None:
    """ONNX Runtime's own gives a table one scale: the words with small rows would be lost beside the largest."""
    before, samples = model(table()), {"i": tokens(16)[:, 0]}
    rows = quantize(before, samples, "affine")
    small = np.arange(LENGTH)[None]  # the rows of 0.01
    held = {t.name: numpy_helper.to_array(t) for t in rows.graph.initializer}
    assert sqnr(held["t_integers"][small] * held["t_scales"][small], table()[small]) > 40
    assert rows.ByteSize() < 0.5 * before.ByteSize()
    np.testing.assert_allclose(
        run(rows, small), run(quantize(before, samples, "affine", tables=False), small), atol=0.1
    )


@pytest.mark.parametrize("kind", ["asked for", "too small", "read by columns"])
def test_a_table_that_stays_in_float_is_in_float(kind: str) -> None:
    held = table(LEAST // (3 * WIDTH - 4)) if kind == "too small" else table()
    more = [helper.make_node("Gather", ["t", "i"], ["z"], axis=1)] if kind == "read by columns" else []
    before = model(held, more, ["y", "z"] if more else ["y"])
    made = quantize(before, {"i": tokens(16)[:, 0] % WIDTH}, "affine", tables=kind != "asked for")
    (look,) = (node for node in made.graph.node if node.name == "look")
    (kept,) = (t for t in made.graph.initializer if t.name == look.input[0])
    assert np.array_equal(numpy_helper.to_array(kept), held)


def test_a_tied_layer_has_integers_of_its_own() -> None:
    """Its weight is the table, row by row: what the quantizer leaves of that is only looked up."""
    tied = [helper.make_node("Squeeze", ["x", "zero"], ["s"]), helper.make_node("Gemm", ["s", "t"], ["z"], transB=1)]
    before = model(table(), tied, ["y", "z"])
    before.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "zero"))
    made = quantize(before, {"i": tokens(16)[:, 0]}, "affine")
    kinds = {t.data_type for t in made.graph.initializer if list(t.dims) == [ROWS, WIDTH]}
    assert kinds == {TensorProto.INT8}


def test_old_files_name_their_constants_among_their_inputs() -> None:
    before = model(table())
    before.ir_version = 3
    before.opset_import[0].version = 13
    for name, shape in (("t", [ROWS, WIDTH]), ("w", [WIDTH, 5])):
        before.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    made = integer_tables(before)
    assert [value.name for value in made.graph.input] == ["i", "w"]
    onnx.checker.check_model(made, full_check=True)
    assert sqnr(run(made, tokens(1)[0]), run(before, tokens(1)[0])) > 40


def test_a_name_within_a_branch_is_taken_too() -> None:
    def branch(name: str, kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["x"], [name])], name, [], [out])

    choose = helper.make_node(
        "If", ["c"], ["z"], then_branch=branch("x_steps", "Neg"), else_branch=branch("t_scales", "Abs")
    )
    before = model(table(), [choose], ["y", "z"])
    before.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    made = integer_tables(before).SerializeToString()
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])  # which takes no name twice
    assert [port.name for port in session.get_outputs()] == ["y", "z"]


def test_the_given_model_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = model(table())
    before.graph.node[0].name = ""
    monkeypatch.setattr("edgekd.quant.onnx_ptq.slimmed", lambda given, _: given)  # as where slimming fails
    quantize(before, {"i": tokens(4)[:, 0]}, "affine")
    assert before.graph.node[0].name == ""


def test_a_name_that_is_taken_stays_its_owners() -> None:
    before = model(table(), [helper.make_node("Relu", ["t_scales"], ["z"])], ["y", "z"])
    before.graph.initializer.append(numpy_helper.from_array(np.full(3, 7, np.float32), "t_scales"))
    made, x = integer_tables(before), tokens(1)[0]
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = session.run(None, {"i": x})
    assert z.tolist() == [7, 7, 7]
    assert sqnr(y, run(before, x)) > 40
