"""A backend whose compiler and engines are on the device: its engine is handed over as a bundle that proves itself there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from project import new_project

from edgekd import api, bundle, registry
from edgekd.errors import UserError

FAR = '''
"""A backend of the tests, whose engines open on their device only."""

import shutil
from typing import final

from edgekd.backend import Backend, write_engine
from edgekd.errors import UserError

__all__ = ["Far"]


@final
class Far(Backend):
    name = "far"
    packages = {"onnx": "onnx"}
    on_device = "nothing"
    compile_only = "a far engine opens on its device only"

    def grid(self, target):
        return "affine"

    def unsupported(self, program, target):
        return []

    def compile(self, program, out, target, threads):
        shutil.copyfile(program / "model.onnx", out / "model.onnx")
        (out / "build").mkdir()
        (out / "build" / "script.py").write_text("raise SystemExit")
        facts = {"backend": self.name, "file": "model.onnx", "versions": {}, "threads": 1, "options": {}}
        return write_engine(program, out, facts)

    def load(self, engine):
        raise UserError(self.compile_only)
'''


def test_what_only_its_device_opens_comes_as_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_plugins", {})
    (tmp_path / "far.py").write_text(FAR)
    registry.add_plugin(f"backends={tmp_path / 'far.py'}")
    recipe = new_project(tmp_path / "quarters_far")
    text = recipe.read_text()
    kept = text[: text.index("[teacher]")] + text[text.index("[data]") : text.index("[[stage]]")]
    recipe.write_text(f'{kept}[targets]\nnames = ["host"]\nbackends = ["far"]\n')
    out = tmp_path / "out"
    report = api.compile(recipe, out, store=tmp_path / "store")
    (host,) = report["targets"]
    (built,) = host["candidates"]
    assert (built["verdict"], built["latency"], built["metric"]) == ("built", None, None)
    assert built["reason"] == "built, not measured: a far engine opens on its device only"
    assert (host["chosen"], host["nearest"], host["race"]) == (None, None, None)
    folder = out / "built" / "host" / "student-far"
    manifest = bundle.read(folder)
    assert {"engine/model.onnx", "engine/build/script.py", "golden.npz", "edgekd.lock"} <= set(manifest["files"])
    assert manifest["keeps_budget"] is False and manifest["promised"]["latency"] is None
    assert built["bytes"] == (folder / "engine" / "model.onnx").stat().st_size, "the script is no part of the engine"
    with pytest.raises(UserError, match="opens on its device only"):
        bundle.load(folder)
    session = ort.InferenceSession(folder / "engine" / "model.onnx")
    with np.load(folder / "golden.npz") as golden:
        assert len(golden["inputs"]) == 8
        for x, y in zip(golden["inputs"], golden["outputs"], strict=True):
            (found,) = session.run(None, {session.get_inputs()[0].name: x[None]})
            assert np.allclose(found[0], y, atol=1e-4), "the program's own outputs"
        span = float(golden["outputs"].max() - golden["outputs"].min())
    assert manifest["tolerance"] == {"top1": 0.875, "absolute": pytest.approx(0.1 * span)}
