"""Engine against program, tensor by tensor: agreement where there is some, and the first that diverges, named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_models as models
import pytest

from edgekd import api, registry
from edgekd.errors import UserError
from edgekd.pipeline.parity import compare, differences, lines


def test_differences_are_in_steps_and_in_the_programs_order() -> None:
    """s8 and u8 are one grid, 128 apart; a float of an int8 program is in 255ths of its span: 0.02 of 0 … 2.55 is two steps."""
    reference = {
        "q": np.array([[-128, 0, 5]], np.int8),
        "left out": np.zeros((1, 2), np.float32),
        "d": np.array([[0.0, 2.55, 1.0]], np.float32),
        "flags": np.array([True]),
    }
    found = {
        "d": np.array([[0.0, 2.55, 1.02]], np.float32),
        "q": np.array([[0, 131, 133]], np.uint8),
        "flags": np.array([True]),
        "left out": np.zeros((2, 1), np.float32),
    }
    rows = differences(reference, found, "int8")
    assert [row["tensor"] for row in rows] == ["q", "d"]
    assert rows[0] == {"tensor": "q", "steps": 3.0, "differing": pytest.approx(1 / 3)}
    assert rows[1]["steps"] == pytest.approx(2.0, rel=1e-5)


def test_what_is_not_a_number_diverges_most() -> None:
    rows = differences({"a": np.ones((1, 2), np.float32)}, {"a": np.array([[np.nan, 1]], np.float32)}, "float32")
    assert rows[0]["steps"] > 1e300


def test_engines_are_compared_and_the_first_tensor_that_diverges_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime agrees; a backend that doubles the second convolution's weight does not; one shows nothing inside."""
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.setattr(registry, "_plugins", {**registry._plugins})
    registry.add_plugin(f"backends={tmp_path / 'wrong.py'}")
    plan = api.prepare(
        models.convnet(tmp_path / "net.onnx"), overrides=["data.count=24", "targets.placement=false"],
        backends=["onnxruntime", "null", "wrong"], store=tmp_path / "store", quiet=True,
    )  # fmt: skip
    for name, step in plan.steps.items():
        if name in ("student", "samples", "quantize_onnx") or name.startswith("compile "):
            plan.entries[name] = plan.store.make(step.key, step.label, step.make)
    found = compare(plan)
    by_name = {one["engine"]: one for one in found}
    for name in ("student on onnxruntime", "quantize_onnx on onnxruntime"):
        one = by_name[name]
        assert one["first"] is None, one
        assert one["tensors"][-1]["tensor"] == "scores"
        assert max(row["steps"] for row in one["tensors"]) < 1000
    assert {row["tensor"] for row in by_name["quantize_onnx on onnxruntime"]["tensors"]} >= {
        f"{name}_QuantizeLinear_Output" for name in ("image", "r1", "r2", "p")
    }
    wrong = by_name["student on wrong"]
    assert wrong["first"] == "r2"
    assert wrong["tensors"][0]["tensor"] == "r1" and wrong["tensors"][0]["steps"] < 1000
    assert by_name["student on null"]["reason"] == "its runtime does not show them"
    said = lines(found)
    for words in ("none of", "does not show", "r2 is the first of"):
        assert any(words in line for line in said)


WRONG = '''"""ONNX Runtime behind a reader that doubles one weight: what a bug in a compiler looks like."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd.backend import Backend
from edgekd.backends.onnxruntime import OnnxRuntime

__all__ = ["Wrong"]


class Wrong(Backend):
    """Everything is ONNX Runtime's, but for the weight."""

    name = "wrong"
    packages = OnnxRuntime.packages

    def grid(self, target):
        return "affine"

    def unsupported(self, program, target):
        return []

    def compile(self, program, out, target, threads):
        facts = OnnxRuntime().compile(program, out, target, threads)
        facts = {**facts, "backend": self.name}
        (out / "engine.json").write_text(json.dumps(facts))
        return facts

    def load(self, engine):
        from edgekd.backends.onnxruntime import OnnxRuntimeSession, _open
        from edgekd.backend import Signature
        facts = json.loads((engine / "engine.json").read_text())
        return OnnxRuntimeSession(Signature.read(engine), _open(engine / facts["file"], facts["options"]))

    def tensors(self, program, target, threads, samples, written):
        import shutil, tempfile
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(folder) / "program"
            shutil.copytree(program, copied)
            if not written:
                model = onnx.load(copied / "model.onnx")
                for tensor in model.graph.initializer:
                    if tensor.name.startswith("w2") and tensor.data_type in (1, 3) and len(tensor.dims) == 4:
                        value = numpy_helper.to_array(tensor)
                        tensor.CopyFrom(numpy_helper.from_array((value // 2 if value.dtype == np.int8 else value * 2), tensor.name))
                onnx.save(model, copied / "model.onnx")
            return OnnxRuntime().tensors(copied, target, threads, samples, written)
'''


def test_nothing_else_can_be_debugged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='nothing to debug is called "parities"') as caught:
        api.compile(tmp_path / "recipe.toml", tmp_path / "out", debug="parities")
    assert "parity" in caught.value.hint
