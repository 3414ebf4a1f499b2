"""ncnn: float and half floats, ports by their names, int8 and what it has no layer for refused before compiling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backends.folders import float_model, int8_model, unoptimised, write_program
from onnx import TensorProto, helper

from edgekd.backend import load_engine, open_backend
from edgekd.errors import EdgekdError, UserError

BACKEND = open_backend("ncnn")
needs_ncnn = pytest.mark.skipif(bool(BACKEND.missing()), reason=f"ncnn is an extra: {BACKEND.missing()}")


def compiled(tmp_path: Path, program: Path, threads: int = 1, *more: str) -> tuple[dict[str, Any], Path]:
    out = tmp_path / f"engine{threads}{''.join(more)}"
    out.mkdir()
    return BACKEND.compile(program, out, {"name": "board", "precisions": ["float32", *more]}, threads), out


def program_of(folder: Path, nodes: list[onnx.NodeProto], **ports: list[str]) -> Path:
    """A program of float nodes with ports of shape [1, 3, 5, 7]."""

    def values(side: str) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 5, 7]) for name in ports[side]]

    graph = helper.make_graph(nodes, "g", values("inputs"), values("outputs"))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    program = write_program(folder)
    onnx.save(model, program / "model.onnx")

    def listed(side: str) -> list[dict[str, Any]]:
        return [{"name": name, "shape": [1, 3, 5, 7], "dtype": "float32"} for name in reversed(ports[side])]

    (program / "signature.json").write_text(json.dumps({"inputs": listed("inputs"), "outputs": listed("outputs")}))
    return program


@needs_ncnn
@pytest.mark.parametrize(("more", "nearness"), [((), 1e-5), (("float16",), 3e-3)])
def test_float_and_half_floats_equal_the_program(more: tuple[str, ...], nearness: float, tmp_path: Path) -> None:
    """On 200 inputs, at least 99.5% with the same class (half floats have 11 bits, so a hair's breadth may flip one)."""
    model = float_model()
    facts, engine = compiled(tmp_path, write_program(tmp_path / "program", model), 1, *more)
    assert (facts["float_nodes"], facts["integer_nodes"], facts["delegated_share"]) == (3, 0, None)
    assert facts["options"]["use_fp16_storage"] is bool(more)
    assert sorted(p.name for p in engine.iterdir()) == ["engine.json", "model.bin", "model.param", "signature.json"]
    weights = sum(np.prod(t.dims) for t in model.graph.initializer if t.name != "b3")
    assert (engine / "model.bin").stat().st_size == pytest.approx(weights * (2 if more else 4), abs=64)
    x = np.random.default_rng(0).standard_normal((200, 1, 1, 8, 8)).astype(np.float32)
    with load_engine(engine) as session:
        found = np.concatenate([session.run([one])[0] for one in x])
        kept = session.run([x[0]])[0]
        copy = kept.copy()
        session.run([x[1]])
        np.testing.assert_array_equal(kept, copy)
    wanted = np.concatenate([unoptimised(model, one) for one in x])
    np.testing.assert_allclose(found, wanted, atol=nearness)
    assert np.mean(found.argmax(1) == wanted.argmax(1)) >= 0.995


@needs_ncnn
def test_ports_are_found_by_name_whatever_their_order(tmp_path: Path) -> None:
    """a − b and a · b of images whose rows are no multiple of 16 bytes; the signature lists both sides backwards."""
    nodes = [helper.make_node("Sub", ["a", "b"], ["minus"]), helper.make_node("Mul", ["a", "b"], ["times"])]
    program = program_of(tmp_path / "p", nodes, inputs=["a", "b"], outputs=["minus", "times"])
    assert BACKEND.unsupported(program, {}) == []
    facts, engine = compiled(tmp_path, program)
    assert facts["blobs"] == {"inputs": ["in1", "in0"], "outputs": ["out1", "out0"]}
    random = np.random.default_rng(0)
    b, a = (random.standard_normal((1, 3, 5, 7)).astype(np.float32) for _ in range(2))
    with load_engine(engine) as session:
        times, minus = session.run([b, a])
    np.testing.assert_allclose(minus, a - b, atol=1e-6)
    np.testing.assert_allclose(times, a * b, atol=1e-6)


@needs_ncnn
def test_what_it_cannot_take_is_known_before_compiling(tmp_path: Path) -> None:
    lines = BACKEND.unsupported(write_program(tmp_path / "int8", int8_model(), "int8"), {})
    assert lines == [
        "the program is int8; the packages ncnn and pnnx hold no tool that quantizes, and pnnx has no rule for its pairs"
    ]
    (line,) = BACKEND.unsupported(write_program(tmp_path / "dynamic", float_model("batch")), {})
    assert line.startswith('input "x" has the dynamic shape')
    nodes = [helper.make_node("Hardmax", ["x"], ["y"])]
    program = program_of(tmp_path / "hardmax", nodes, inputs=["x"], outputs=["y"])
    (line,) = BACKEND.unsupported(program, {})
    assert "Hardmax" in line and line.endswith("ncnn has no such layer")
    signature = json.loads((program / "signature.json").read_text())
    signature["inputs"][0] |= {"shape": [4, 3, 5, 7], "dtype": "int64"}
    (program / "signature.json").write_text(json.dumps(signature))
    assert BACKEND.unsupported(program, {}) == [
        'input "x" has the shape [4, 3, 5, 7]; ncnn takes one sample, [1, …] of 2 to 5 dimensions',
        'input "x" is int64; ncnn is given and gives float32 here',
    ]


@needs_ncnn
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_what_the_engine_says(threads: int, tmp_path: Path) -> None:
    _, engine = compiled(tmp_path, write_program(tmp_path / "program"), threads)
    session = BACKEND.load(engine)
    assert session._net.opt.num_threads == threads  # type: ignore[attr-defined]
    session.close()
    session.close()
    with pytest.raises(EdgekdError, match="this session was closed"):
        session.run(session.signature.noise(0))


@needs_ncnn
def test_a_damaged_engine_is_refused(tmp_path: Path) -> None:
    program = write_program(tmp_path / "program")
    _, engine = compiled(tmp_path, program)
    facts = json.loads((engine / "engine.json").read_text())
    for change, said in (
        ({"options": {"num_threads": 1, "workspace_allocator": 0}}, "no options of ncnn: workspace_allocator"),
        ({"blobs": {"inputs": ["in7"], "outputs": ["out0"]}}, "the network has no inputs in7; it has in0"),
    ):
        (engine / "engine.json").write_text(json.dumps({**facts, **change}))
        with pytest.raises((UserError, EdgekdError), match=said):
            load_engine(engine)
    (engine / "engine.json").write_text(json.dumps(facts))
    (engine / "model.param").write_text("not a network\n")
    with pytest.raises(EdgekdError, match=r"model\.param: ncnn refuses the file"):
        load_engine(engine)
    (program / "model.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(EdgekdError, match="the model's inputs are"):
        compiled(tmp_path, program, 2)


def test_what_is_missing_names_the_extra_and_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name == "pnnx" else name)
    assert BACKEND.missing() == "pip install 'edgekd[ncnn]' pnnx==20261020"


@needs_ncnn
def test_a_first_layer_that_works_in_place_gets_a_copy(tmp_path: Path) -> None:
    """ncnn would write over the caller's array, or end the process."""
    program = program_of(tmp_path / "program", [helper.make_node("Relu", ["x"], ["y"])], inputs=["x"], outputs=["y"])
    _, engine = compiled(tmp_path, program)
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 7)).astype(np.float32)
    before = x.copy()
    with load_engine(engine) as session:
        np.testing.assert_array_equal(session.run([x])[0], np.maximum(before, 0))
    np.testing.assert_array_equal(x, before)
