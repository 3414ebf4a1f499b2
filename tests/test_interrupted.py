"""Killed or interrupted in any stage, a run goes on where it was, to the same bits; nothing half-written is left."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import BRIEF, Warm, edgekd, new_project

from edgekd import digest

LONG = ["--set", "distill.epochs=6", "--set", "prune.epochs=4", "--set", "quantize.qat.epochs=3"]


def options(recipe: Path, folder: Path) -> list[str | Path]:
    return ["compile", recipe, "--store", folder / "store", "--out", folder / "out", *BRIEF, *LONG]


def start(recipe: Path, folder: Path) -> Warm:
    folder.mkdir(exist_ok=True)
    return Warm(folder / "said", *options(recipe, folder))


def stop_in(stage: str, recipe: Path, folder: Path, with_signal: signal.Signals) -> tuple[int, str]:
    """Start a run and stop it as soon as it has written what can be seen of the stage: exit code and what it said."""
    since = time.time()
    child = start(recipe, folder)
    while not any(path.stat().st_mtime > since for path in seen(folder, stage)):
        assert child.process.is_alive(), child.said.read_text()
        assert time.time() - since < 300
        time.sleep(0.005)
    child.stop(with_signal)
    return child.ended(60), child.said.read_text()


def seen(folder: Path, stage: str) -> Iterator[Path]:
    """Files that tell from outside that a stage is under way, or has just begun."""
    if stage in ("distill", "prune", "quantize"):
        yield from folder.glob(f"store/work/*/{stage}*.checkpoint")
        return
    for path in folder.glob("store/entries/*/*/entry.json"):
        if json.loads(path.read_text())["label"].startswith(stage):
            yield path


def weights(folder: Path) -> dict[str, tuple[str, str]]:
    """Label -> key and digest of every student, and of every program's constants, in the store."""
    found = {}
    for path in (folder / "store" / "entries").glob("*/*/weights.safetensors"):
        entry = json.loads((path.parent / "entry.json").read_text())
        found[entry["label"]] = entry["key"], digest.of_file(path)
    return found


@pytest.mark.slow
def test_stopped_in_every_stage_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "quarters")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    done = edgekd(*options(recipe, straight))
    assert done.returncode in (0, 1), done.stderr  # 1: none keeps the budget
    for stage in ("distill", "prune", "quantize", "export", "evaluate"):
        code, _ = stop_in(stage, recipe, broken, signal.SIGKILL)
        assert code == -signal.SIGKILL
        left = len(list((broken / "store" / "tmp").iterdir()))
        code, errors = stop_in(stage, recipe, broken, signal.SIGINT)
        assert code == 130, errors
        assert "interrupted" in errors and "Traceback" not in errors
        assert len(list((broken / "store" / "tmp").iterdir())) == left
        assert not (broken / "out" / "report.json").exists()
    last = start(recipe, broken)
    assert last.ended() in (0, 1), last.said.read_text()
    assert "cached" in last.said.read_text()
    students = {"teacher", "student", "distill", "prune", "quantize"}
    assert set(weights(straight)) == students | {f"export {name}" for name in students - {"student"}}
    assert weights(straight) == weights(broken)


def test_an_interrupt_inside_code_in_a_string_has_the_same_exit_code(tmp_path: Path) -> None:
    """Python would end by the signal, -2, though the interrupt was caught."""
    recipe = new_project(tmp_path / "quarters")
    module = recipe.with_name("quarters.py")
    module.write_text(module.read_text().replace("def data()", 'exec("raise KeyboardInterrupt")\n\n\ndef data()'))
    ran = edgekd("plan", recipe, "--store", tmp_path / "store")
    assert (ran.returncode, "interrupted" in ran.stderr) == (130, True), ran.stderr
