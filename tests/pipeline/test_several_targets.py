"""What a plan makes of several targets at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import new_project

from edgekd import api


def test_kept_channels_are_multiples_of_each_targets(tmp_path: Path) -> None:
    """8 and 12 give 24: the step that prunes for both has the key of one that prunes for a target of 24."""
    recipe = new_project(tmp_path / "quarters_several")
    for multiple in (8, 12, 24):
        board = f'chip = "X"\ntriple = "x86_64-linux"\nchannel_multiple = {multiple}\nbackends = ["onnxruntime"]\n'
        (recipe.parent / f"of{multiple}.toml").write_text(board)

    def key(*names: str) -> str:
        listed = ", ".join(f'"{name}.toml"' for name in names)
        plan = api.prepare(recipe, overrides=[f"targets.names=[{listed}]"], store=tmp_path / "store", quiet=True)
        return plan.steps["prune"].key

    assert key("of8", "of12") == key("of24") != key("of12")


def test_a_backend_that_is_not_installed_is_no_candidate_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = new_project(tmp_path / "quarters_listed")
    recipe.write_text(recipe.read_text().replace('backends = ["onnxruntime"]', ""))
    board = 'chip = "X"\ntriple = "x86_64-linux"\nbackends = ["ncnn", "onnxruntime"]\n'
    (recipe.parent / "board.toml").write_text(board)
    monkeypatch.setattr("edgekd.backend.find_spec", lambda name: None if name == "ncnn" else name)

    def raced(**more: list[str]) -> set[str]:
        plan = api.prepare(recipe, targets=["board.toml"], store=tmp_path / "store", quiet=False, **more)
        return {candidate.backend for candidate in plan.candidates}

    assert raced() == {"onnxruntime"}
    note = "note: board: passed over, since not installed: ncnn (pip install 'edgekd[ncnn]'"
    assert note in capsys.readouterr().err
    assert raced(backends=["ncnn"]) == {"ncnn"}
    assert note not in capsys.readouterr().err
