"""`edgekd compile model.onnx`: files as they come, from the file to the bundle; and the ones that are refused, with why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models as models
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekd
from edgekd import api, samples
from edgekd.backend import Signature
from edgekd.errors import UserError
from edgekd.onnx import file as onnx_file
from edgekd.onnx.recipe import table
from edgekd.quant.onnx_ptq import quantize

BRIEF = ["measure.seconds=0.05", "measure.processes=1", "measure.wait=0", "data.count=32", "targets.placement=false"]


def compiled(file: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    return api.compile(
        file, tmp_path / "out", overrides=BRIEF, backends=["onnxruntime"], store=tmp_path / "store", **more
    )


def test_a_file_becomes_a_bundle_judged_by_agreement_with_itself(tmp_path: Path) -> None:
    file, teacher = models.convnet(tmp_path / "net.onnx"), models.convnet(tmp_path / "teacher.onnx", seed=7)
    found = compiled(file, tmp_path, teacher=teacher)
    assert found["name"] == "net"
    assert found["metric"] == {"name": "agreement", "reference": "student"}
    rows = {(row["row"], row["runs_in"]): row for row in found["ledger"]}
    assert list(rows) == [
        ("teacher", "onnxruntime"),
        ("float file", "onnxruntime"),
        ("quantized", "onnxruntime"),
        ("compiled", "onnxruntime"),
    ]
    assert rows["float file", "onnxruntime"]["metric"] == 1.0
    assert rows["teacher", "onnxruntime"]["metric"] == rows["float file", "onnxruntime"]["agreement"]["top1"] < 1
    assert "SQNR" in rows["quantized", "onnxruntime"]["note"]
    engines = {one["name"]: one for one in found["targets"][0]["candidates"]}
    integer = engines["quantize_onnx on onnxruntime"]
    assert integer["float_nodes"] == 0
    assert integer["integer_nodes"] >= 3
    assert integer["metric"] >= 0.8
    assert integer["bytes"] < 0.5 * engines["student on onnxruntime"]["bytes"]
    (shown,) = found["calibration"]
    assert shown["synthetic"]
    assert "a guess" in shown["notes"][0]
    with edgekd.load(tmp_path / "out" / "bundles" / "host") as session:
        (scores,) = session.run([np.zeros((1, 3, 16, 16), np.float32)])
    assert scores.shape == (1, 5)


def test_a_state_and_a_scalar_are_whole_inputs_and_the_bundle_verifies(tmp_path: Path) -> None:
    from edgekd.verify import verify

    file, random = models.recurrent(tmp_path / "vad.onnx"), np.random.default_rng(0)
    arrays = {
        "audio": random.standard_normal((12, 1, 24)).astype(np.float32),
        "state": random.standard_normal((12, 2, 1, 8)).astype(np.float32),
        "rate": np.full(12, 16000),
    }
    np.savez(tmp_path / "inputs.npz", **arrays)
    found = compiled(file, tmp_path, calibration=tmp_path / "inputs.npz")
    assert found["metric"]["name"] == "fidelity"
    assert found["splits"] == {"train": 6, "validation": 3, "test": 3}
    assert found["budget"]["metric_drop"] == 0.01
    assert (
        found["targets"][0]["chosen"] == "student on onnxruntime"
    )  # whatever is faster, for integers lose too much here
    row = found["ledger"][1]
    assert 0.5 < row["metric"] < 1
    assert row["flips"] is None
    checked = verify(tmp_path / "out" / "bundles" / "host")
    assert checked.ok, checked.reason
    assert checked.samples == 3
    with np.load(tmp_path / "out" / "bundles" / "host" / "golden.npz") as golden:
        assert golden["inputs_1"].shape == (3, 2, 1, 8)
        assert golden["outputs_1"].shape == (3, 2, 1, 8)


def test_labels_give_an_accuracy_and_a_quantized_file_is_raced_as_it_is(tmp_path: Path) -> None:
    file = models.tokens(tmp_path / "float.onnx")
    ids = np.random.default_rng(0).integers(0, 11, (40, 7))
    model = onnx_file.load(file)
    onnx_file.fix_batch(model)
    onnx.save(quantize(model, {"ids": ids}, "affine"), tmp_path / "came.onnx")
    np.savez(tmp_path / "ids.npz", ids=ids, labels=ids[:, 0] % 4)
    assert "stage" not in table(tmp_path / "came.onnx")
    found = compiled(tmp_path / "came.onnx", tmp_path, calibration=tmp_path / "ids.npz")
    assert found["metric"]["name"] == "accuracy"
    assert 0 <= found["ledger"][0]["metric"] < 1
    assert found["ledger"][0]["row"] == "quantized file"
    assert "came quantized" in found["ledger"][0]["note"]
    (target,) = found["targets"]
    assert target["chosen"] == "student on onnxruntime"
    assert target["candidates"][0]["precision"] == "int8"


def test_a_bias_that_is_a_row_is_quantized_as_the_vector_that_it_is() -> None:
    """As in Magika's file, once its batch is fixed: the runtime refused the scales that its own quantizer gave the row."""
    random = np.random.default_rng(0)
    held = {"w": random.standard_normal((8, 5)), "b": random.standard_normal((1, 5))}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in held.items()],
    )
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = random.standard_normal((16, 8)).astype(np.float32)
    made = quantize(before, {"x": x}, "affine")
    assert sum(node.op_type == "DequantizeLinear" for node in made.graph.node) >= 3
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # no fusion hides the pair
    one, other = (
        onnxruntime.InferenceSession(m.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, {"x": x[:1]})[
            0
        ]
        for m in (before, made)
    )
    assert np.abs(one - other).max() < 0.15


@pytest.mark.parametrize("last", [False, True])
def test_weights_in_constant_nodes_are_quantized(tmp_path: Path, last: bool) -> None:
    model = onnx_file.load(models.convnet(tmp_path / "net.onnx", last=last, constants=True))
    onnx_file.fix_batch(model)
    assert not any(node.op_type == "Constant" for node in model.graph.node)
    shape = (8, 16, 16, 3) if last else (8, 3, 16, 16)
    found = quantize(model, {"image": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}, "affine")
    kept = [t.data_type for t in found.graph.initializer if np.prod(t.dims) > 100]
    assert kept == [onnx.TensorProto.INT8] * 3


def refused(file: Path, tmp_path: Path, **more: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        compiled(file, tmp_path, **more)
    assert caught.value.hint
    assert not (tmp_path / "out" / "report.json").exists()
    return caught.value


def test_files_that_cannot_be_read_or_run_are_refused_with_the_reason(tmp_path: Path) -> None:
    whole = models.convnet(tmp_path / "whole.onnx")
    (tmp_path / "cut.onnx").write_bytes(whole.read_bytes()[:-900])
    assert "cut.onnx is not a whole ONNX file" in refused(tmp_path / "cut.onnx", tmp_path).message
    model = onnx.load(whole)
    onnx.save_model(model, tmp_path / "out.onnx", save_as_external_data=True, location="out.bin", size_threshold=0)
    (tmp_path / "out.bin").unlink()
    said = refused(tmp_path / "out.onnx", tmp_path).message
    assert "weights beside it cannot be read" in said
    assert "out.bin" in said
    model.opset_import[0].version = 99
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    assert "is of opset 99" in refused(tmp_path / "new.onnx", tmp_path).message
    assert "node wobble (com.example Wobble)" in refused(models.custom(tmp_path / "own.onnx"), tmp_path).message
    other = models.two_by_two(tmp_path / "other.onnx")
    assert "the teacher's inputs are" in refused(whole, tmp_path, teacher=other).message


def test_samples_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = models.convnet(tmp_path / "net.onnx")
    images = np.random.default_rng(0).standard_normal((9, 3, 16, 16)).astype(np.float32)
    signature = Signature.read(program(file, tmp_path))

    def said(**arrays: Any) -> str:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(UserError) as caught:
            samples.npz(tmp_path / "x.npz", signature, 64, 0)
        return caught.value.message

    assert '"image" is [9, 3, 8, 8]' in said(image=images[:, :, ::2, ::2])
    assert "every value" in said(image=np.ones_like(images))
    images[4, 0, 0, 0] = np.nan
    assert "sample 4" in said(image=images)
    assert 'no array "image"' in said(a=images, b=images)
    assert "holds int64" in said(image=np.zeros((9, 3, 16, 16), np.int64))
    one, notes = samples.split(samples.Samples([images[:1]]), 0)
    assert [len(part) for part in one.values()] == [1, 1, 1]
    assert "1 sample only" in notes[0]
    free = Signature.read(program(models.tokens(tmp_path / "t.onnx", "length"), tmp_path))
    with pytest.raises(UserError, match="its size length is free"):
        samples.noise(free, {}, 4, 0, "t.onnx")
    with pytest.raises(UserError, match="does not exist"):
        table(file, "zero-shots")


def program(file: Path, tmp_path: Path) -> Path:
    """The file's program folder, as its step makes it."""
    folder = tmp_path / f"{file.stem}-program"
    folder.mkdir()
    model = onnx_file.load(file)
    onnx_file.fix_batch(model)
    onnx_file.write_program(folder, model, onnx_file.signature(model, str(file)), "float32")
    return folder


def test_token_ids_stay_inside_the_table(tmp_path: Path) -> None:
    file = models.tokens(tmp_path / "t.onnx")
    limits = onnx_file.index_limits(onnx_file.load(file))
    assert limits == {"ids": 11}
    (ids,) = samples.noise(Signature.read(program(file, tmp_path)), limits, 50, 0, "t.onnx").inputs
    assert ids.shape == (50, 7)
    assert set(np.unique(ids)) == set(range(11))


def test_a_recipe_for_a_file_takes_only_what_a_file_can(tmp_path: Path) -> None:
    models.convnet(tmp_path / "net.onnx")
    start = '[student]\nuse = "onnx"\nweights = "net.onnx"\n'
    cases = {
        f'{start}[data]\nuse = "noise"\n[[stage]]\nuse = "prune"\nratio = 0.5\n': 'takes a student, "[student]" gives a file',
        f'{start}[data]\nfactory = "a:b"\n': "judged on arrays",
        f'{start}[data]\nuse = "npz"\n': "needs a path",
        f'{start}[data]\nuse = "noise"\nmeam = 1\n': "unknown key",
        '[student]\nuse = "onnx"\n[data]\nuse = "noise"\n': "needs its file",
    }
    for text, said in cases.items():
        (tmp_path / "recipe.toml").write_text(text)
        with pytest.raises(UserError) as caught:
            api.prepare(tmp_path / "recipe.toml", store=tmp_path / "store")
        assert said in caught.value.message


def test_a_file_that_the_quantizer_refuses_is_compiled_in_float(tmp_path: Path) -> None:
    """Logarithms of negative numbers inside, which the file itself replaces: no range can be drawn from them."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Log", ["m"], ["l"]),
        helper.make_node("MatMul", ["l", "w"], ["n"]),
        helper.make_node("IsNaN", ["n"], ["bad"]),
        helper.make_node("Where", ["bad", "m", "n"], ["y"]),
    ]
    ports = [models.port(name, models.FLOAT, [1, 4]) for name in ("x", "y")]
    weights = {"w": -np.abs(models.random(4, 4))}
    onnx.save(models.model(nodes, ports[:1], ports[1:], weights), tmp_path / "net.onnx")
    values = np.abs(np.random.default_rng(0).standard_normal((24, 4))).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=values)
    found = compiled(tmp_path / "net.onnx", tmp_path, calibration=tmp_path / "x.npz")
    assert [row["row"] for row in found["ledger"]] == ["float file", "compiled"]
    (target,) = found["targets"]
    engines = {one["name"]: one for one in target["candidates"]}
    assert engines["quantize_onnx on onnxruntime"]["verdict"] == "failed"
    assert "quantizer cannot take it" in engines["quantize_onnx on onnxruntime"]["reason"]
    assert target["chosen"] == "student on onnxruntime"
    assert (tmp_path / "out" / "bundles" / "host" / "bundle.json").is_file()
