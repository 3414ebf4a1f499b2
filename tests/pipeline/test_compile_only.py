"""A backend whose engines cannot be run here: built and handed over, neither scored nor timed, never chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import new_project

from edgekd import api
from edgekd.backend import open_backend
from edgekd.report import html, markdown

CURE = open_backend("coreml").missing()


@pytest.mark.skipif(bool(CURE), reason=f"coreml is an extra: {CURE}")
def test_built_not_measured_and_handed_over(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "quarters_built")
    text = recipe.read_text()
    kept = text[: text.index("[teacher]")] + text[text.index("[data]") : text.index("[[stage]]")]
    recipe.write_text(f'{kept}[targets]\nnames = ["iphone-15"]\nbackends = ["coreml", "onnxruntime"]\n')
    out, store = tmp_path / "out", tmp_path / "store"
    report = api.compile(recipe, out, store=store)
    (phone,) = report["targets"]
    built, other = phone["candidates"]
    assert (built["name"], built["verdict"], other["verdict"]) == ("student on coreml", "built", "rejected")
    assert built["reason"].startswith("built, not measured: Core ML runs on Apple's systems only")
    assert (built["metric"], built["latency"], built["parity"]) == (None, None, None)
    assert built["bytes"] > 0 and built["note"] == "computes in half floats"
    assert phone["nearest"] == "student on onnxruntime"
    engine = out / "built" / "iphone-15" / "student-coreml"
    assert json.loads((engine / "engine.json").read_text())["bytes"] == built["bytes"]
    assert sorted(p.name for p in engine.iterdir()) == ["engine.json", "model.mlpackage", "signature.json"]
    steps = [step["step"] for step in report["plan"]]
    assert "compile student on coreml for iphone-15" in steps
    assert "evaluate student on coreml for iphone-15" not in steps
    assert "built" in markdown.render(report) and 'class="pill built"' in html.render(report, {})
    alone = api.compile(recipe, out, overrides=['targets.backends=["coreml"]'], store=store)["targets"][0]
    assert (alone["chosen"], alone["nearest"]) == (None, None)
    assert alone["reason"].startswith("No engine is chosen, since latency was not measured")
    assert engine.is_dir() and not (out / "bundles" / "iphone-15").exists()
