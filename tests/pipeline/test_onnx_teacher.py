"""An ONNX teacher is taken whole, with weights that lie beside it, and stands in the ledger like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import linear_teacher
from project import new_project

import edgekd
from edgekd.errors import UserError
from edgekd.pipeline.sources import weight_files
from edgekd.teachers.onnx import Onnx


def split_model(path: Path, value: float) -> None:
    """y = x @ w, with w in `path`.data."""
    weight = numpy_helper.from_array(np.full((32, 16), value, np.float32), "w")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size]) for n, size in (("x", 32), ("y", 16))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph)
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def test_weights_beside_the_file_come_along(tmp_path: Path) -> None:
    split_model(tmp_path / "t.onnx", 2.0)
    (tmp_path / "store").mkdir()
    Onnx.keep(tmp_path / "t.onnx", tmp_path / "store" / "teacher.onnx")
    (whole,) = onnx.load(tmp_path / "store" / "teacher.onnx").graph.initializer
    assert np.array_equal(numpy_helper.to_array(whole), np.full((32, 16), 2.0, np.float32))
    assert [p.name for p in weight_files(tmp_path / "t.onnx")] == ["t.onnx", "t.onnx.data"]


def test_missing_or_broken_files_are_named(tmp_path: Path) -> None:
    split_model(tmp_path / "t.onnx", 2.0)
    (tmp_path / "t.onnx.data").unlink()
    with pytest.raises(UserError, match=r"t\.onnx is not a whole ONNX file"):
        Onnx.keep(tmp_path / "t.onnx", tmp_path / "out.onnx")
    (tmp_path / "t.onnx").write_bytes(b"\x00broken")
    assert weight_files(tmp_path / "t.onnx") == [tmp_path / "t.onnx"]
    with pytest.raises(UserError, match="is not a whole ONNX file"):
        Onnx.keep(tmp_path / "t.onnx", tmp_path / "out.onnx")


@pytest.mark.parametrize("softmax", [False, True])
def test_it_has_a_row_in_the_ledger_and_an_engine_if_that_gives_logits(tmp_path: Path, softmax: bool) -> None:
    recipe = new_project(tmp_path / f"linear_{softmax}")
    linear_teacher(recipe.parent / "t.onnx", softmax)
    text = recipe.read_text()
    sections = {
        "teacher": f'use = "onnx"\nweights = "t.onnx"\nprobabilities = {str(softmax).lower()}\n',
        "targets": 'backends = ["onnxruntime"]\n',
        "measure": "seconds = 0.2\nprocesses = 2\nwait = 0\n",
    }
    kept = text[: text.index("[teacher]")] + text[text.index("[data]") : text.index("[[stage]]")]
    recipe.write_text(kept + "".join(f"[{name}]\n{body}" for name, body in sections.items()))
    report = edgekd.compile(recipe, tmp_path / "out", store=tmp_path / "store")
    teacher = report["ledger"][0]
    assert (teacher["row"], teacher["parameters"], teacher["macs"]) == ("teacher", 1024, None)
    assert teacher["runs_in"] == "onnxruntime"
    assert (teacher["latency"] is None) is softmax
    assert report["ledger"][1]["agreement"]["kl"] > 0
    engines = {one["name"]: one for one in report["targets"][0]["candidates"]}
    assert ("teacher on onnxruntime" in engines) is not softmax
    if not softmax:
        assert engines["teacher on onnxruntime"]["parity"]["top1"] == 1
        assert engines["teacher on onnxruntime"]["metric"] == teacher["metric"]
