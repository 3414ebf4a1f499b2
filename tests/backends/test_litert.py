"""LiteRT: the file holds the program's own integers, ports are floats by their names, what is missing has its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import float_model, int8_model, unoptimised, write_program
from onnx import numpy_helper

from edgekd import worker
from edgekd.backend import Session, Signature, load_engine, open_backend
from edgekd.compilers.tflite_file import with_ports
from edgekd.errors import EdgekdError
from edgekd.worker import WorkerError
from tests.backends.test_executorch import near_both, with_node, with_products

BACKEND = open_backend("litert")
needs_litert = pytest.mark.skipif(bool(BACKEND.missing()), reason=f"litert's converter is extra: {BACKEND.missing()}")
needs_runtime = pytest.mark.skipif(
    bool(BACKEND.missing(to_open=True)), reason=f"litert is an extra: {BACKEND.missing(to_open=True)}"
)


def compiled(tmp_path: Path, program: Path) -> tuple[dict[str, Any], Path]:
    """As the pipeline compiles: in a worker that sees the converter's environment."""
    out = tmp_path / "engine"
    out.mkdir()
    request = {"backend": "litert", "program": str(program), "out": str(out), "target": {"name": "host"}, "threads": 1}
    return worker.call("compile", request, env=BACKEND.variables()), out


@needs_litert
def test_large_products_into_floats_are_of_integers(tmp_path: Path) -> None:
    """XNNPACK takes them with the program's weights, and rounds their inputs at each call; ten logits are computed in float."""
    program, network, images = with_products(tmp_path / "program")
    facts, engine = compiled(tmp_path, program)
    assert (facts["integer_nodes"], facts["float_nodes"], facts["fallback"]) == (4, 1, {})
    assert (facts["kernels"]["FULLY_CONNECTED integer"], facts["kernels"]["FULLY_CONNECTED float"]) == (3, 1)
    assert (engine / "model.tflite").stat().st_size < 1.5 * sum(weight.numel() for weight in network.parameters())
    near_both(engine, program, network, images)


@needs_litert
def test_an_int8_engine_has_the_programs_integers_and_equals_the_program(tmp_path: Path) -> None:
    """The logits stay float, so their layer does; the one value that may round to a neighbour is the mean, a step of 0.02."""
    model = int8_model()
    facts, engine = compiled(tmp_path, write_program(tmp_path / "program", model, "int8"))
    assert (facts["integer_nodes"], facts["float_nodes"], facts["delegated_share"]) == (2, 1, pytest.approx(2 / 3))
    assert (facts["fallback"], facts["note"]) == ({}, "")
    assert facts["kernels"]["CONV_2D integer"] == facts["kernels"]["MEAN integer"] == 1
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    same = 0
    with load_engine(engine) as session:
        details = session._interpreter.get_tensor_details()  # type: ignore[attr-defined]
        (held,) = [t for t in details if list(t["shape"]) == [8, 3, 3, 8]]
        np.testing.assert_array_equal(held["quantization_parameters"]["scales"], weights["w2_s"])
        integers = session._interpreter.get_tensor(held["index"])  # type: ignore[attr-defined]
        np.testing.assert_array_equal(integers, weights["w2_i"].transpose(0, 2, 3, 1))
        steps = {float(t["quantization_parameters"]["scales"][0]) for t in details if t["dtype"] is np.int8}
        assert {np.float32(0.03), np.float32(0.02)} <= {np.float32(step) for step in steps}
        for seed in range(200):
            x = np.random.default_rng(seed).standard_normal((1, 1, 8, 8)).astype(np.float32)
            (y,), wanted = session.run([x]), unoptimised(model, x)
            np.testing.assert_allclose(y, wanted, atol=0.02)
            same += int(y.argmax() == wanted.argmax())
    assert same >= 199


@needs_litert
def test_what_has_no_lowering_is_named_by_the_conversion(tmp_path: Path) -> None:
    program = with_node(write_program(tmp_path / "program"), "aten.erfinv.default")
    with pytest.raises(WorkerError) as caught:
        compiled(tmp_path, program)
    said = "litert-torch cannot convert the program: Lowering not found: aten.erfinv.default (node new)"
    assert caught.value.message.splitlines()[0] == said


def by_hand() -> bytes:
    """int8 [1, 4] of scale 0.5 around 3, through a ReLU, to int8 of scale 0.25 from -128; ports numbered."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, scale: float, zero: int) -> Any:
        made, grid = schema.TensorT(), schema.QuantizationParametersT()
        grid.scale, grid.zeroPoint = [scale], [zero]
        made.name, made.shape, made.type, made.quantization = name, [1, 4], schema.TensorType.INT8, grid
        made.buffer, made.hasRank = 0, True
        return made

    def port(name: str, index: int) -> Any:
        made = schema.TensorMapT()
        made.name, made.tensorIndex = name, index
        return made

    code, operator, graph = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    code.version = 2
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph.tensors = [tensor("serving_default_args_0:0", 0.5, 3), tensor("Identity", 0.25, -128)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    named = schema.SignatureDefT()
    named.signatureKey, named.inputs, named.outputs = "serving_default", [port("args_0", 0)], [port("output_0", 1)]
    empty, held = schema.BufferT(), schema.BufferT()
    held.data = np.arange(7, dtype=np.uint8)
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.signatureDefs = 3, [code], [graph], [named]
    model.buffers = [empty, held]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def with_data_behind(content: bytes) -> bytes:
    """The same model, the data of its last buffer behind the tables, as writers of large files put them."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    last, data = model.buffers[-1], bytes(model.buffers[-1].data)
    last.data, last.size = None, len(data)
    last.offset = 10_000
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output()).ljust(last.offset) + data


def write_signature(folder: Path, given: str = "x", dtype: str = "float32") -> Signature:
    named = {"inputs": given, "outputs": "y"}
    sides = {side: [{"name": name, "shape": [1, 4], "dtype": dtype}] for side, name in named.items()}
    folder.mkdir(exist_ok=True)
    (folder / "signature.json").write_text(json.dumps(sides))
    return Signature.read(folder)


def opened(folder: Path, content: bytes, given: str = "x") -> Session:
    """An engine folder with that file, and a signature whose input has this name."""
    write_signature(folder, given)
    about = {"format": 1, "backend": "litert", "file": "model.tflite", "options": {"num_threads": 2}}
    (folder / "engine.json").write_text(json.dumps(about))
    (folder / "model.tflite").write_bytes(content)
    return load_engine(folder)


@needs_runtime
def test_ports_are_floats_by_the_signatures_names(tmp_path: Path) -> None:
    """By hand: -1 0.6 2 100 are 1 4 7 127 around 3, so -1 0.5 2 62; then the ReLU. Buffers begin at multiples of 16."""
    from ai_edge_litert import schema_py_generated as schema

    content = with_ports(by_hand(), write_signature(tmp_path / "e"))
    assert content == with_ports(by_hand(), write_signature(tmp_path / "e"))
    assert content == with_ports(with_data_behind(by_hand()), write_signature(tmp_path / "e"))
    with opened(tmp_path / "e", content) as session:
        (y,) = session.run([np.array([[-1, 0.6, 2, 100]], np.float32)])
        np.testing.assert_array_equal(y, [[0, 0.5, 2, 62]])
        kept = y.copy()
        session.run([np.zeros((1, 4), np.float32)])
        np.testing.assert_array_equal(y, kept)
    model = schema.Model.GetRootAsModel(content, 0)
    start = model.Buffers(1)._tab.Vector(model.Buffers(1)._tab.Offset(4))
    assert (model.Buffers(1).DataAsNumpy().tolist(), start % 16) == ([0, 1, 2, 3, 4, 5, 6], 0)
    with pytest.raises(EdgekdError, match=r"ports are .*'x'.*signature\.json says other ones: 'pixels'"):
        opened(tmp_path / "e", content, given="pixels")
    integers = write_signature(tmp_path / "e", dtype="int32")
    with pytest.raises(EdgekdError, match=r'"x" is int8 \[1, 4\], signature\.json says int32 \[1, 4\]'):
        with_ports(by_hand(), integers)


@needs_runtime
def test_a_damaged_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgekdError, match=r"model\.tflite: litert refuses the model"):
        opened(tmp_path, b"not a model" * 100)


def test_what_it_cannot_take_is_known_before_compiling(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", int8_model(), "int8", grid="power_of_two")
    bare, grid = BACKEND.unsupported(program, {"triple": "thumbv8.1m.main-none"})
    assert bare.endswith("without an operating system: LiteRT for microcontrollers is another runtime, without XNNPACK")
    assert grid == "quantized on the grid power_of_two; this backend takes affine or symmetric"
    (line,) = BACKEND.unsupported(write_program(tmp_path / "dynamic", float_model("batch")), {})
    assert line.startswith("input \"x\" has the dynamic shape ['batch', 1, 8, 8]")


def test_what_is_missing_names_the_extra_and_then_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEKD_ENVIRONMENTS", str(tmp_path))
    gone = ["ai_edge_litert"]
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name in gone else name)
    assert BACKEND.missing().startswith("pip install 'edgekd[litert]' ai-edge-litert==")
    assert BACKEND.missing(to_open=True) == BACKEND.missing()
    gone.clear()
    assert (BACKEND.missing(), BACKEND.missing(to_open=True)) == ("edgekd doctor --fix litert", "")
