"""Core ML: the package holds the program's own integers, and says that nothing here runs it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.folders import float_model, int8_model, write_program
from onnx import numpy_helper

from edgekd.backend import open_backend
from edgekd.errors import EdgekdError, UserError
from edgekd.quiet import quiet

BACKEND = open_backend("coreml")
needs_coreml = pytest.mark.skipif(bool(BACKEND.missing()), reason=f"coreml is an extra: {BACKEND.missing()}")
PHONE = {"name": "phone", "precisions": ["float32", "float16", "int8"]}


def compiled(out: Path, program: Path, target: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """engine.json's facts, and the model that coremltools reads from the package."""
    out.mkdir()
    facts = BACKEND.compile(program, out, target, 1)
    with quiet():
        from coremltools.models import MLModel

        return facts, MLModel(str(out / facts["file"]), skip_model_load=True).get_spec()


def operations(spec: Any) -> list[Any]:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return list(block.operations)


@needs_coreml
def test_an_int8_package_holds_the_programs_integers_and_scales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = int8_model()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    facts, spec = compiled(tmp_path / "e", write_program(tmp_path / "p", model, "int8"), {"name": "mac"})
    assert not list((tmp_path / "scratch").glob("edgekd-coreml*"))
    assert (facts["integer_nodes"], facts["float_nodes"], facts["delegated_share"]) == (3, 0, 1.0)
    found = operations(spec)
    assert facts["kernels"]["quantize"] == 4
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    blob = (tmp_path / "e" / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    for name in ("w1_i", "w2_i"):
        assert weights[name].astype(np.int8).tobytes() in blob, name
    scales = [op.attributes["scale"] for op in found if op.type == "constexpr_affine_dequantize"]
    assert len(scales) == 3
    np.testing.assert_array_equal(scales[1].immediateValue.tensor.floats.values, weights["w2_s"])


@needs_coreml
def test_half_floats_where_the_target_lists_them_and_ports_called_as_in_the_signature(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", float_model())
    text = (program / "signature.json").read_text()
    (program / "signature.json").write_text(text.replace('"name": "x"', '"name": "pixels"'))
    facts, spec = compiled(tmp_path / "half", program, PHONE)
    assert facts["note"] == "computes in half floats" and facts["options"]["compute_precision"] == "float16"
    float_facts, _ = compiled(tmp_path / "float", program, {"name": "mac"})
    weights = [
        folder / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
        for folder in (tmp_path / "half", tmp_path / "float")
    ]
    half, whole = (file.stat().st_size for file in weights)
    assert half < 0.6 * whole
    assert float_facts["bytes"] > whole
    assert [p.name for p in spec.description.input] == ["pixels"]
    assert list(spec.description.input[0].type.multiArrayType.shape) == [1, 1, 8, 8]
    output = spec.description.output[0]
    assert output.name == "y" and output.type.multiArrayType.dataType == 65568  # FLOAT32


@needs_coreml
def test_what_it_cannot_convert_is_an_error_with_the_operator(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p")
    graph = json.loads((program / "graph.json").read_text())
    graph["nodes"].append(["odd", "aten.special_bessel_j0.default", [{"node": "y"}], {"table": {}}])
    graph["output"] = [{"node": "odd"}]
    (program / "graph.json").write_text(json.dumps(graph))
    (tmp_path / "e").mkdir()
    with pytest.raises(EdgekdError, match="coremltools cannot convert the program: .*special_bessel_j0"):
        BACKEND.compile(program, tmp_path / "e", PHONE, 1)


def test_what_it_cannot_take_is_known_before_compiling(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p")
    text = (program / "signature.json").read_text()
    changed = text.replace('"name": "x"', '"name": "input.1"').replace('"float32"', '"int64"', 1)
    (program / "signature.json").write_text(changed)
    assert BACKEND.unsupported(program, {}) == [
        '"input.1" is int64; Core ML takes and gives float32, float16, int32',
        '"input.1" is no name in Core ML: letters, digits and _',
    ]
    (line,) = BACKEND.unsupported(write_program(tmp_path / "d", float_model("batch")), {})
    assert line.startswith('input "x" has the dynamic shape')


def test_nothing_here_runs_it(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"format": 1, "backend": "coreml", "file": "model.mlpackage"}')
    with pytest.raises(UserError, match="does not exist"):
        BACKEND.load(tmp_path)
    (tmp_path / "model.mlpackage").mkdir()
    with pytest.raises(UserError, match=r"model\.mlpackage: Core ML runs on Apple's systems only"):
        BACKEND.load(tmp_path)


def test_what_is_missing_names_the_extra_and_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name == "coremltools" else name)
    assert BACKEND.missing() == "pip install 'edgekd[coreml]' coremltools==9.0"
