"""An ONNX teacher whose weights lie beside it is taken whole, and counts whole in the key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import UserError
from edgekd.pipeline.roots import embed_onnx
from edgekd.pipeline.sources import weight_files


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
    embed_onnx(tmp_path / "t.onnx", tmp_path / "store" / "teacher.onnx")
    (whole,) = onnx.load(tmp_path / "store" / "teacher.onnx").graph.initializer
    assert np.array_equal(numpy_helper.to_array(whole), np.full((32, 16), 2.0, np.float32))
    assert [p.name for p in weight_files(tmp_path / "t.onnx")] == ["t.onnx", "t.onnx.data"]


def test_missing_or_broken_files_are_named(tmp_path: Path) -> None:
    split_model(tmp_path / "t.onnx", 2.0)
    (tmp_path / "t.onnx.data").unlink()
    with pytest.raises(UserError, match=r"t\.onnx is not a whole ONNX file"):
        embed_onnx(tmp_path / "t.onnx", tmp_path / "out.onnx")
    (tmp_path / "t.onnx").write_bytes(b"\x00broken")
    assert weight_files(tmp_path / "t.onnx") == [tmp_path / "t.onnx"]
    with pytest.raises(UserError, match="is not a whole ONNX file"):
        embed_onnx(tmp_path / "t.onnx", tmp_path / "out.onnx")
