"""ONNX Runtime: int8 runs as integers after re-basing, the file is portable and small, refusals are per node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from backends.folders import float_model, int8_model, unoptimised, write_program
from onnx import TensorProto, helper

from edgekd.backend import Signature, load_engine, open_backend
from edgekd.errors import EdgekdError
from edgekd.onnx.trace import operators_of

BACKEND = open_backend("onnxruntime")


def _compiled(tmp_path: Path, program: Path, threads: int = 1) -> tuple[dict[str, object], Path]:
    out = tmp_path / f"engine{threads}"
    out.mkdir()
    return BACKEND.compile(program, out, {"name": "host"}, threads), out


def test_a_float_engine_computes_what_the_program_does(tmp_path: Path) -> None:
    facts, engine = _compiled(tmp_path, write_program(tmp_path / "program"))
    assert facts["integer_nodes"] == 0
    assert facts["float_nodes"] == 3
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    with load_engine(engine) as session:
        np.testing.assert_allclose(session.run([x])[0], unoptimised(float_model(), x), rtol=1e-4, atol=1e-5)


def test_an_int8_engine_multiplies_integers_and_equals_the_program(tmp_path: Path) -> None:
    model = int8_model()
    facts, engine = _compiled(tmp_path, write_program(tmp_path / "program", model, "int8"))
    kernels = facts["kernels"]
    assert isinstance(kernels, dict)
    assert kernels["QLinearConv"] == 2
    assert facts["float_nodes"] == 0
    assert facts["integer_nodes"] >= 3
    assert facts["delegated_share"] == 1.0
    held = onnx.load(engine / "model.onnx")
    assert {n.domain for n in held.graph.node} <= {"", "ai.onnx"}, "portable: only standard operators"
    zeros = {i.name: i.data_type for i in held.graph.initializer}
    assert {zeros[n.input[2]] for n in held.graph.node if n.op_type == "QuantizeLinear"} == {TensorProto.UINT8}
    with load_engine(engine) as session:
        for seed in range(20):
            x = np.random.default_rng(seed).standard_normal((1, 1, 8, 8)).astype(np.float32)
            # the pooled value may round to its other neighbour: one step of 0.02 through the linear layer
            np.testing.assert_allclose(session.run([x])[0], unoptimised(model, x), atol=0.02)


def test_a_dynamic_batch_works(tmp_path: Path) -> None:
    _, engine = _compiled(tmp_path, write_program(tmp_path / "program", float_model("batch")))
    x = np.random.default_rng(0).standard_normal((7, 1, 8, 8)).astype(np.float32)
    with load_engine(engine) as session:
        whole = session.run([x])[0]
        assert whole.shape == (7, 5)
        np.testing.assert_allclose(session.run([x[2:3]])[0], whole[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("threads", "spins"), [(1, "0"), (2, "1")])
def test_threads_and_options_are_part_of_the_engine(threads: int, spins: str, tmp_path: Path) -> None:
    facts, engine = _compiled(tmp_path, write_program(tmp_path / "program"), threads)
    assert facts["threads"] == threads
    options = BACKEND.load(engine)._session.get_session_options()  # type: ignore[attr-defined]
    assert options.intra_op_num_threads == threads
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins


def test_each_node_that_it_cannot_take_is_a_line(tmp_path: Path) -> None:
    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [1, 4])

    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Wobble", ["a"], ["b"], name="odd", domain="com.example"),
        helper.make_node("Cast", ["x"], ["i"], name="cast", to=TensorProto.BFLOAT16),
        helper.make_node("Sin", ["i"], ["y"], name="sine"),
    ]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT)], [value("y", TensorProto.BFLOAT16)])
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.example", 1)]
    program = write_program(tmp_path / "p", float_model())
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), program / "model.onnx")
    lines = BACKEND.unsupported(program, {"name": "host"})
    assert [line.split(":")[0] for line in lines] == ["node odd (com.example Wobble)", "node sine (ai.onnx Sin)"]
    assert "com.example" in lines[0]


def test_another_grid_is_refused(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", int8_model(), "int8", grid="power_of_two")
    assert BACKEND.unsupported(program, {}) == [
        "quantized on the grid power_of_two; this backend takes affine or symmetric"
    ]


def test_a_signature_of_other_names_is_refused(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p")
    text = (program / "signature.json").read_text().replace('"x"', '"pixels"')
    (program / "signature.json").write_text(text)
    with pytest.raises(EdgekdError, match=r"inputs are \['x'\], signature.json says \['pixels'\]"):
        _compiled(tmp_path, program)


def test_a_damaged_engine_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    _, engine = _compiled(tmp_path, write_program(tmp_path / "p"))
    (engine / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(EdgekdError, match="onnxruntime refuses the model"):
        load_engine(engine)


@pytest.mark.parametrize(
    ("isa", "precision", "exact"),
    [
        (["avx2"], "int8", True),
        (["avx2", "avx512_vnni"], "int8", False),
        (["avx2"], "float32", False),
        ([], "int8", False),
    ],
)
def test_x86_without_vnni_gets_the_exact_kernels(isa: list[str], precision: str, exact: bool) -> None:
    from edgekd.backends.onnxruntime import _entries

    target = {"triple": "x86_64-linux", "isa": isa}
    assert ("session.x64quantprecision" in _entries(target, 1, precision)) is exact


def test_the_profile_is_read_by_hand() -> None:
    """Two calls of which the first warms up: the second's 10 + 12 µs of two convolutions, 3 µs of an addition."""
    events = [{"cat": "Session", "name": "model_run", "dur": 99, "args": {}}]
    for conv1, conv2, add in ((90, 80, 70), (10, 12, 3)):
        for name, op, took in (("a", "Conv", conv1), ("b", "Conv", conv2), ("", "Add", add)):
            about = {"op_name": op, "output_type_shape": [{"float": [1, 8, 4, 4]}]}
            events.append({"cat": "Node", "name": f"{name}_kernel_time", "dur": took, "args": about})
            events.append({"cat": "Node", "name": f"{name}_fence_before", "dur": 1000, "args": about})
    found = operators_of(events, 1)
    assert [(row["operator"], row["nodes"]) for row in found] == [("Conv 1×8×4×4", 2), ("Add 1×8×4×4", 1)]
    assert [row["seconds"] for row in found] == pytest.approx([22e-6, 3e-6])


def test_a_real_profile_names_what_was_compiled(tmp_path: Path) -> None:
    backend, out = open_backend("onnxruntime"), tmp_path / "engine"
    out.mkdir()
    backend.compile(write_program(tmp_path / "program"), out, {}, 1)
    found = backend.profile(out, Signature.read(out).noise(0), 4)
    assert found is not None
    assert sum(row["nodes"] for row in found if row["operator"].startswith("Conv ")) == 2
    assert all(row["seconds"] >= 0 for row in found)
    assert not list(tmp_path.glob("*profile*")) and not list(Path().glob("*profile*.json"))
