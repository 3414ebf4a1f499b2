"""OpenVINO: int8 runs as integers after re-basing, the engine is two files, and a node that it cannot read is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from backends.folders import float_model, int8_model, unoptimised, write_program
from onnx import TensorProto, helper

from edgekd.backend import Signature, load_engine, open_backend
from edgekd.errors import EdgekdError

BACKEND = open_backend("openvino")
needs_openvino = pytest.mark.skipif(bool(BACKEND.missing()), reason=f"openvino is an extra: {BACKEND.missing()}")


def compiled(tmp_path: Path, program: Path, threads: int = 1) -> tuple[dict[str, object], Path]:
    out = tmp_path / f"engine{threads}"
    out.mkdir()
    return BACKEND.compile(program, out, {"name": "host"}, threads), out


@needs_openvino
def test_an_int8_engine_multiplies_integers_and_equals_the_program(tmp_path: Path) -> None:
    model = int8_model()
    facts, engine = compiled(tmp_path, write_program(tmp_path / "program", model, "int8"))
    assert (facts["integer_nodes"], facts["float_nodes"], facts["delegated_share"]) == (3, 0, 1.0)
    kernels = facts["kernels"]
    assert isinstance(kernels, dict) and kernels["Convolution integer"] == 2
    assert sorted(p.name for p in engine.iterdir()) == ["engine.json", "model.bin", "model.xml", "signature.json"]
    with load_engine(engine) as session:
        for seed in range(20):
            x = np.random.default_rng(seed).standard_normal((1, 1, 8, 8)).astype(np.float32)
            np.testing.assert_allclose(session.run([x])[0], unoptimised(model, x), atol=0.02)  # one step of the pool


@needs_openvino
def test_a_dynamic_batch_works_and_outputs_are_the_callers(tmp_path: Path) -> None:
    facts, engine = compiled(tmp_path, write_program(tmp_path / "program", float_model("batch")))
    assert facts["float_nodes"] == 3 and facts["delegated_share"] is None
    x = np.random.default_rng(0).standard_normal((7, 1, 8, 8)).astype(np.float32)
    with load_engine(engine) as session:
        whole = session.run([x])[0]
        kept = whole.copy()
        one = session.run([x[2:3]])[0]
        np.testing.assert_array_equal(whole, kept)
    assert whole.shape == (7, 5)
    np.testing.assert_allclose(one, whole[2:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole, unoptimised(float_model("batch"), x), rtol=1e-4, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_precision_are_what_the_engine_says(threads: int, tmp_path: Path) -> None:
    _, engine = compiled(tmp_path, write_program(tmp_path / "program"), threads)
    opened = BACKEND.load(engine)._request.get_compiled_model()  # type: ignore[attr-defined]
    assert opened.get_property("INFERENCE_NUM_THREADS") == threads
    assert opened.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


@needs_openvino
def test_each_node_that_it_cannot_read_is_a_line(tmp_path: Path) -> None:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 4])

    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Wobble", ["a"], ["b"], name="odd", domain="com.example"),
        helper.make_node("Det", ["b"], ["y"], name="determinant"),
    ]
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.example", 1)]
    graph = helper.make_graph(nodes, "g", [value("x")], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    program = write_program(tmp_path / "p", float_model())
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), program / "model.onnx")
    lines = BACKEND.unsupported(program, {"name": "host"})
    assert [re.sub(r"\bn(\d)", r"node \1", line.partition(":")[0]) for line in lines] == [
        "node node 1 (com.example Wobble)",
        "node node 2 (ai.onnx Det)",
    ]


@needs_openvino
def test_another_grid_another_name_and_a_damaged_file(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", int8_model(), "int8", grid="power_of_two")
    assert BACKEND.unsupported(program, {})[0].startswith("quantized on the grid power_of_two")
    program = write_program(tmp_path / "q")
    _, engine = compiled(tmp_path, program)
    text = (program / "signature.json").read_text().replace('"x"', '"pixels"')
    (program / "signature.json").write_text(text)
    with pytest.raises(EdgekdError, match=r"inputs are \['x'\], signature.json says \['pixels'\]"):
        compiled(tmp_path, program, 2)
    (engine / "model.xml").write_bytes(b"not a model")
    with pytest.raises(EdgekdError, match="openvino refuses the model"):
        load_engine(engine)


def test_what_is_missing_names_the_extra_and_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name == "openvino" else name)
    assert BACKEND.missing() == "pip install 'edgekd[openvino]' openvino==2026.4.1"


@needs_openvino
def test_a_real_profile_names_what_was_compiled(tmp_path: Path) -> None:
    _, engine = compiled(tmp_path, write_program(tmp_path / "program", int8_model(), "int8"))
    found = BACKEND.profile(engine, Signature.read(engine).noise(0), 20)
    assert found is not None
    rows = {row["operator"]: row for row in found}
    convolutions = [row for name, row in rows.items() if re.fullmatch(r"Convolution 1×\d+×\d+×\d+", name)]
    assert sum(row["nodes"] for row in convolutions) == 2, sorted(rows)
    assert all(0 <= row["seconds"] < 1 for row in found) and len(rows) == len(found)
