"""An ONNX file as the teacher, against numpy."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny import tiny_data

from edgekd.errors import UserError
from edgekd.teachers.onnx import Onnx

WEIGHT = np.random.default_rng(0).normal(size=(144, 4)).astype(np.float32)
INPUTS = tiny_data().train[0][:5]
EXPECTED = INPUTS.flatten(1).numpy() @ WEIGHT


def written(
    path: Path, batch: int | str = "batch", kind: int = TensorProto.FLOAT, softmax: bool = False, inputs: int = 1
) -> Path:
    """flatten(image) · W, and a softmax if asked for; as many inputs as asked for, the first one used."""
    flow = [helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT)]
    flow.append(helper.make_node("Flatten", ["float"], ["flat"]))
    flow.append(helper.make_node("MatMul", ["flat", "W"], ["logits"]))
    if softmax:
        flow.append(helper.make_node("Softmax", ["logits"], ["p"], axis=1))
    names = ["image", "mask"][:inputs]
    graph = helper.make_graph(
        flow,
        "teacher",
        [helper.make_tensor_value_info(name, kind, [batch, 1, 12, 12]) for name in names],
        [helper.make_tensor_value_info("p" if softmax else "logits", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(WEIGHT, "W")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("batch", ["batch", 1, 2, 5, 8])
def test_any_number_of_samples_through_a_free_or_a_fixed_batch(tmp_path: Path, batch: int | str) -> None:
    logits = Onnx(written(tmp_path / "t.onnx", batch)).outputs(INPUTS)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), EXPECTED, rtol=1e-4, atol=1e-4)


def test_inputs_are_given_in_the_type_that_the_file_takes(tmp_path: Path) -> None:
    logits = Onnx(written(tmp_path / "t.onnx", kind=TensorProto.FLOAT16)).outputs(INPUTS)
    np.testing.assert_allclose(logits.numpy(), EXPECTED, rtol=0.05, atol=0.05)


def test_probabilities_become_logits_with_the_same_softmax(tmp_path: Path) -> None:
    logits = Onnx(written(tmp_path / "t.onnx", softmax=True), probabilities=True).outputs(INPUTS)
    torch.testing.assert_close(logits.softmax(1), torch.from_numpy(EXPECTED).softmax(1))
    assert torch.isfinite(logits).all()


def test_it_has_no_features(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Onnx gives logits only"):
        Onnx(written(tmp_path / "t.onnx")).features(INPUTS, ["block"])


def test_a_file_that_is_missing_cut_or_of_another_kind_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.onnx does not exist"):
        Onnx(tmp_path / "none.onnx")
    whole = written(tmp_path / "t.onnx")
    for content in (b"", b"text", whole.read_bytes()[:300]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.onnx is not an ONNX file"):
            Onnx(tmp_path / "bad.onnx")


def test_more_than_one_input_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 inputs: image, mask"):
        Onnx(written(tmp_path / "t.onnx", inputs=2))


def test_inputs_of_another_shape_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not run on inputs \[2, 1, 9, 9\]"):
        Onnx(written(tmp_path / "t.onnx")).outputs(torch.zeros(2, 1, 9, 9))
