"""Backends of two grids in one recipe: a quantized student for each, and every engine from the one that its backend takes."""

from __future__ import annotations

from pathlib import Path

from project import new_project

from edgekd import api


def test_each_backend_gets_the_student_of_its_grid(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "quarters_grids")
    plan = api.prepare(recipe, backends=["onnxruntime", "tensorrt_rtx"], store=tmp_path / "store", quiet=True)
    assert plan.grids == ("affine", "symmetric")
    quantized = {v.name: v.grid for v in plan.versions if v.quantized}
    assert quantized == {"quantize": "affine", "quantize, symmetric": "symmetric"}
    assert plan.steps["quantize"].key != plan.steps["quantize, symmetric"].key
    names = {candidate.name for candidate in plan.candidates}
    assert {"quantize on onnxruntime", "quantize, symmetric on tensorrt_rtx", "prune on tensorrt_rtx"} <= names
    assert not {"quantize on tensorrt_rtx", "quantize, symmetric on onnxruntime"} & names
    assert plan.trained == ["distill", "prune", "quantize"]  # the ledger tells one student after another


def test_of_one_grid_nothing_is_made_twice(tmp_path: Path) -> None:
    """The affine student has one key, whether a backend of another grid stands beside or not."""
    recipe = new_project(tmp_path / "quarters_one")
    both, one = (
        api.prepare(recipe, backends=names, store=tmp_path / "store", quiet=True)
        for names in (["onnxruntime", "tensorrt_rtx"], ["onnxruntime"])
    )
    assert one.grids == ("affine",) and [v.grid for v in one.versions] == [""] * len(one.versions)
    assert both.steps["quantize"].key == one.steps["quantize"].key
