"""Preprocessing inside the engine: the same outputs as outside, on ONNX Runtime and OpenVINO, float and int8; and in a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from backends.folders import float_model, int8_model, write_program
from cxx.processing_cases import signature

import edgekd
from edgekd import bundle
from edgekd.backend import Signature, load_engine, open_backend
from edgekd.errors import UserError
from edgekd.in_engine import ONLY_ONNX, bytes_of, constants, fold, resizing
from edgekd.processing import preprocess

CONSTANTS: dict[str, Any] = {"scale": 1 / 255, "mean": [0.485], "std": [0.229], "layout": "NCHW"}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_bytes_give_what_prepared_inputs_give(backend: str, precision: str, tmp_path: Path) -> None:
    if command := open_backend(backend).missing():
        pytest.skip(command)
    model = int8_model() if precision == "int8" else float_model()
    plain, folded = write_program(tmp_path / "plain", model, precision), tmp_path / "folded"
    folded.mkdir()
    fold(plain, folded, {**CONSTANTS, "crop": {"size": 8}})
    onnx.checker.check_model(onnx.load(folded / "model.onnx"), full_check=True)
    for program in (plain, folded):
        engine = tmp_path / f"{program.name}-engine"
        engine.mkdir()
        assert open_backend(backend).unsupported(program, {}) == []
        open_backend(backend).compile(program, engine, {}, 1)
    outside = signature((1, 1, 8, 8), preprocessing=CONSTANTS)
    images = np.random.default_rng(2).integers(0, 256, (20, 10, 8, 1), np.uint8)
    step = (
        0.0 if precision == "float32" else 0.02
    )  # one step of the int8 net's last activations: a tie may fall elsewhere
    with load_engine(tmp_path / "plain-engine") as there, load_engine(tmp_path / "folded-engine") as here:
        taken = here.signature.inputs[0]
        assert (taken.shape, taken.dtype, here.signature.preprocessing["layout"]) == ((1, 8, 8, 1), "uint8", "NHWC")
        for image in images:
            (wanted,) = there.run([preprocess(outside, image[1:9])])
            (found,) = here.run([here.preprocess(image)])  # what stays outside: the crop
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 + step)
    graph = json.loads((folded / "graph.json").read_text())
    assert graph["refused"] == [ONLY_ONNX]


def test_the_constants() -> None:
    """(byte · 1/2 − 3) / [4, 2] is byte · [1/8, 1/4] + [−3/4, −3/2]."""
    made = signature((1, 2, 1, 3))
    factor, offset, first = constants(made, {"scale": 0.5, "mean": 3.0, "std": [4.0, 2.0]})
    assert (factor.tolist(), offset.tolist(), first) == ([0.125, 0.25], [-0.75, -1.5], True)
    raw = np.arange(12, dtype=np.uint8).reshape(2, 1, 3, 2)
    inputs = np.stack([preprocess(signature((1, 2, 1, 3), preprocessing=CONSTANTS), one)[0] for one in raw])
    assert (bytes_of(inputs, made, CONSTANTS) == raw).all()
    with pytest.raises(UserError, match=r"the data are not bytes, scaled and normalised: 0\.5 of a byte apart"):
        bytes_of(inputs + np.float32(0.5 / 255 / 0.229), made, CONSTANTS)
    with pytest.raises(UserError, match="the data are not bytes"):
        bytes_of(inputs - np.float32(9), made, CONSTANTS)
    with pytest.raises(UserError, match="students of one float32 image"):
        constants(signature((1, 64)), CONSTANTS)
    with pytest.raises(UserError, match='a key "framing" that edgekd does not apply'):
        constants(made, {"framing": {"length": 4, "hop": 2}})


def test_a_recipe_ships_an_engine_that_takes_bytes(tmp_path: Path) -> None:
    """What is scored, timed and golden is the folded engine; resize stays outside."""
    onnx.save(float_model(), tmp_path / "net.onnx")
    raw = np.random.default_rng(1).integers(0, 256, (32, 8, 8, 1), np.uint8)
    outside = signature((1, 1, 8, 8), preprocessing=CONSTANTS)
    np.savez(tmp_path / "data.npz", x=np.concatenate([preprocess(outside, image) for image in raw]))
    (tmp_path / "recipe.toml").write_text(
        '[student]\nuse = "onnx"\nweights = "net.onnx"\n[data]\nuse = "npz"\npath = "data.npz"\n'
        '[targets]\nbackends = ["onnxruntime"]\npreprocess = "in_engine"\n[measure]\nprocesses = 1\nseconds = 0.1\nwait = 0\n'
        "[preprocessing]\nscale = 0.00392156862745098\nmean = [0.485]\nstd = [0.229]\nresize = { size = 8 }\n"
        "[postprocessing]\nsoftmax = true\ntop = 1\n"
    )
    edgekd.compile(tmp_path / "recipe.toml", tmp_path / "out", store=tmp_path / "store")
    made = tmp_path / "out" / "bundles" / "host"
    about = Signature.read(made / "engine")
    assert (about.inputs[0].dtype, about.inputs[0].shape) == ("uint8", (1, 8, 8, 1))
    assert about.preprocessing == {"resize": {"size": 8}, "layout": "NHWC"}
    with np.load(made / "golden.npz") as golden, bundle.load(made) as student:
        assert golden["inputs"].dtype == np.uint8
        assert any((golden["inputs"][0] == image).all() for image in raw)
        (outputs,) = student.run([student.preprocess(golden["inputs"][0])])
        np.testing.assert_allclose(outputs[0], golden["outputs"][0], atol=1e-5)
    assert json.loads((made / "edgekd.lock").read_text())["format"] == 1


def test_data_that_are_not_bytes_are_told_before_any_work(tmp_path: Path) -> None:
    onnx.save(float_model(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((16, 1, 8, 8)).astype(np.float32))
    text = (
        '[student]\nuse = "onnx"\nweights = "net.onnx"\n[data]\nuse = "npz"\npath = "data.npz"\n[[stage]]\nuse = "quantize_onnx"\n'
        '[targets]\nbackends = ["onnxruntime"]\npreprocess = "in_engine"\n[preprocessing]\nscale = 0.5\n'
    )
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(UserError, match=r"recipe\.toml:11: targets\.preprocess: .*the data are not bytes"):
        edgekd.compile(tmp_path / "recipe.toml", tmp_path / "out", store=tmp_path / "store")
    (tmp_path / "recipe.toml").write_text(text + "mel = { bins = 4 }\nframing = { length = 3 }\n")
    with pytest.raises(UserError, match=r"recipe\.toml:15: preprocessing\.framing\.hop: None is not a whole number"):
        edgekd.compile(tmp_path / "recipe.toml", tmp_path / "out", store=tmp_path / "store")


RESIZES: list[tuple[dict[str, Any], tuple[int, int]]] = [
    ({"resize": {"size": [8, 8], "from": [24, 16]}}, (24, 16)),
    ({"resize": {"size": [8, 8], "method": "nearest", "from": [23, 11]}}, (23, 11)),
    ({"resize": {"size": 10, "from": [37, 25]}, "crop": {"size": 8}}, (37, 25)),
    ({"resize": {"size": [8, 8], "from": 8}}, (8, 8)),
]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("table", "size"), RESIZES, ids=["shrunk", "nearest", "cropped", "as it is"])
def test_images_are_resized_in_the_engine(
    backend: str, table: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    """What is one step of a byte, of at most one pixel in a hundred, is all that a runtime's own Resize may differ by."""
    if command := open_backend(backend).missing():
        pytest.skip(command)
    from onnx import TensorProto, helper

    kept = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8, 8])],
    )
    model = helper.make_model(kept, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    plain, folded, engine = write_program(tmp_path / "plain", model), tmp_path / "folded", tmp_path / "engine"
    folded.mkdir()
    engine.mkdir()
    fold(plain, folded, {**CONSTANTS, **table})
    onnx.checker.check_model(onnx.load(folded / "model.onnx"), full_check=True)
    assert open_backend(backend).unsupported(folded, {}) == []
    open_backend(backend).compile(folded, engine, {}, 1)
    outside = signature((1, 1, 8, 8), preprocessing={**CONSTANTS, **table})
    images = np.random.default_rng(3).integers(0, 256, (40, *size, 1), np.uint8)
    step, apart = CONSTANTS["scale"] / CONSTANTS["std"][0], []
    with load_engine(engine) as here:
        taken = here.signature.inputs[0]
        assert (taken.shape, taken.dtype) == ((1, *size, 1), "uint8")
        assert here.signature.preprocessing == {"layout": "NHWC"}
        for image in images:
            (found,) = here.run([here.preprocess(image)])
            apart.append(np.abs(found - preprocess(outside, image)) / step)
    steps = np.concatenate(apart)
    if table["resize"].get("method") == "nearest" or size == (8, 8):
        assert steps.max() < 1e-3
    assert steps.max() < 1 + 1e-3
    assert (steps > 1e-3).mean() < 0.01


@pytest.mark.parametrize(("table", "size"), RESIZES, ids=["shrunk", "nearest", "cropped", "as it is"])
def test_data_become_images_that_resizing_makes_them_of(table: dict[str, Any], size: tuple[int, int]) -> None:
    about = signature((1, 1, 8, 8))
    around = {**CONSTANTS, **table}
    raw = np.random.default_rng(4).integers(0, 256, (5, 8, 8, 1), np.uint8)
    outside = signature((1, 1, 8, 8), preprocessing=CONSTANTS)
    data = np.concatenate([preprocess(outside, image) for image in raw])
    images = bytes_of(data, about, around)
    assert images.shape == (5, *size, 1) and images.dtype == np.uint8
    resized = signature((1, 1, 8, 8), preprocessing=around)
    assert (np.concatenate([preprocess(resized, image) for image in images]) == data).all()


def test_what_cannot_be_resized_in_the_engine_is_told() -> None:
    about = signature((1, 1, 8, 8))
    data = np.zeros((2, 1, 8, 8), np.float32) - np.float32(CONSTANTS["mean"][0] / CONSTANTS["std"][0])
    for resize, why in (
        ({"size": [8, 8], "from": [12, 16]}, "12 pixels to 8: the data are the student's inputs"),
        ({"size": [8, 8], "from": [4, 16]}, "4 pixels to 8"),
        ({"size": [9, 8], "from": [27, 16]}, r"from: \[27, 16\] is not a size of which \[9, 8\]"),
    ):
        with pytest.raises(UserError, match=why):
            bytes_of(data, about, {**CONSTANTS, "resize": resize})
    with pytest.raises(UserError, match=r"2 images of 80000 × 80000 are 12\.8 GB"):
        bytes_of(data, about, {**CONSTANTS, "resize": {"size": [8, 8], "from": [80000, 80000]}})
    with pytest.raises(UserError, match="resize goes into an engine of a fixed batch"):
        resizing(signature(("batch", 1, 8, 8)), {**CONSTANTS, "resize": {"size": 8, "from": 16}})  # type: ignore[arg-type]
