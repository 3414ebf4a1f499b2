"""TensorRT for RTX: built without a graphics card, float, half floats and symmetric integers; and it is said that nothing here runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from backends.folders import float_model, int8_model, symmetric_model, write_program
from quant import test_onnx_tables as onnx_tables
from quant import test_tables as torch_tables

from edgekd.backend import open_backend
from edgekd.errors import UserError
from edgekd.quant.onnx_ptq import quantize

BACKEND = open_backend("tensorrt_rtx")
pytestmark = pytest.mark.skipif(bool(BACKEND.missing()), reason=f"tensorrt_rtx is an extra: {BACKEND.missing()}")
CARD = {"name": "card", "compute_capabilities": ["8.6"]}


@pytest.mark.parametrize(("half", "note"), [(False, ""), (True, "computes in half floats")])
def test_a_float_program_is_built_for_the_targets_card(tmp_path: Path, half: bool, note: str) -> None:
    precisions = ["float32", *(["float16"] if half else [])]
    target = {**CARD, "precisions": precisions}
    program = write_program(tmp_path / "p", float_model())
    assert BACKEND.unsupported(program, target) == []
    (tmp_path / "e").mkdir()
    facts = BACKEND.compile(program, tmp_path / "e", target, 1)
    assert facts["options"] == {"compute_capabilities": ["SM86"], "half": half}
    assert (facts["note"], facts["integer_nodes"], facts["float_nodes"]) == (note, 0, 3)
    assert facts["bytes"] == (tmp_path / "e" / "model.plan").stat().st_size > 1000
    with pytest.raises(UserError, match="builds for it and does not run it"):
        BACKEND.load(tmp_path / "e")


def test_symmetric_integers_are_built_and_affine_ones_refused(tmp_path: Path) -> None:
    symmetric = write_program(tmp_path / "s", symmetric_model(), "int8", grid="symmetric")
    assert BACKEND.unsupported(symmetric, CARD) == []
    (tmp_path / "e").mkdir()
    facts = BACKEND.compile(symmetric, tmp_path / "e", CARD, 1)
    assert (facts["integer_nodes"], facts["precision"], facts["grid"]) == (3, "int8", "symmetric")
    affine = write_program(tmp_path / "a", int8_model(), "int8", grid="affine")
    (line,) = BACKEND.unsupported(affine, CARD)
    assert line == "quantized on the grid affine; this backend takes symmetric"


def test_rows_that_are_looked_up_as_integers_are_built(tmp_path: Path) -> None:
    samples = onnx_tables.tokens(8)[:, 0]
    model = quantize(onnx_tables.model(onnx_tables.table()), {"i": samples}, "symmetric")
    program = write_program(tmp_path / "p", model, "int8", grid="symmetric")
    assert BACKEND.unsupported(program, CARD) == []
    (tmp_path / "e").mkdir()
    assert BACKEND.compile(program, tmp_path / "e", CARD, 1)["bytes"] > 1000


@pytest.mark.parametrize("model", [torch_tables.network(), torch_tables.Normed().eval()], ids=["words", "places too"])
def test_rows_of_a_torch_students_tables_are_built(model: torch_tables.Words, tmp_path: Path) -> None:
    for name in ("p", "e"):
        (tmp_path / name).mkdir()
    program = torch_tables.written(model, "symmetric", tmp_path / "p")
    assert BACKEND.unsupported(program, CARD) == []
    assert BACKEND.compile(program, tmp_path / "e", CARD, 1)["bytes"] > 1000


def test_what_its_parser_refuses_is_named_by_node(tmp_path: Path) -> None:
    model = float_model()
    model.graph.node.add(op_type="NonExistent", name="odd", input=[model.graph.output[0].name], output=["z"])
    lines = BACKEND.unsupported(write_program(tmp_path / "p", model), CARD)
    assert len(lines) == 1 and "odd" in lines[0] and "NonExistent" in lines[0]


def test_a_card_that_it_does_not_know(tmp_path: Path) -> None:
    program = write_program(tmp_path / "p", float_model())
    (line,) = BACKEND.unsupported(program, {**CARD, "compute_capabilities": ["8.7"]})
    assert line == "compute capability 8.7 is none of an RTX card that this version builds for"
