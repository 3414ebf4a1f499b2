"""Killed or interrupted in any stage, a run goes on where it was, to the same bits; nothing half-written is left."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import BRIEF, command, new_project

from edgekd import digest

LONG = ["--set", "distill.epochs=6", "--set", "prune.epochs=4", "--set", "quantize.qat.epochs=3"]


def start(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    arguments = command("compile", recipe, "--store", folder / "store", "--out", folder / "out", *BRIEF, *LONG)
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_when(child: subprocess.Popen[str], reached: Callable[[], bool], with_signal: signal.Signals) -> str:
    end = time.monotonic() + 300
    while not reached():
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)
    child.send_signal(with_signal)
    return child.communicate(timeout=60)[1]


def exists(folder: Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(folder.glob(pattern))


def labelled(folder: Path, label: str) -> Callable[[], bool]:
    """Whether the store holds an entry of that label."""
    return lambda: any(json.loads(p.read_text())["label"] == label for p in folder.glob("store/entries/*/*/entry.json"))


STAGES = ["distill", "prune", "quantize", "export", "race"]


def moments(folder: Path) -> dict[str, Callable[[], bool]]:
    """Something that can be seen from outside in each stage."""
    return {
        "distill": exists(folder, "store/work/*/distill.checkpoint"),
        "prune": exists(folder, "store/work/*/prune*.checkpoint"),
        "quantize": exists(folder, "store/work/*/quantize.checkpoint"),
        "export": labelled(folder, "export teacher"),
        "race": labelled(folder, "evaluate quantize on onnxruntime for host"),
    }


@pytest.mark.slow
def test_killed_in_every_stage_the_weights_are_the_same_to_the_bit(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "quarters")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    whole = start(recipe, straight)
    _, errors = whole.communicate(timeout=600)
    assert whole.returncode in (0, 1), errors
    for stage in STAGES:
        stop_when(start(recipe, broken), moments(broken)[stage], signal.SIGKILL)
    last = start(recipe, broken)
    _, errors = last.communicate(timeout=600)
    assert last.returncode in (0, 1), errors
    assert "cached" in errors

    def weights(folder: Path) -> dict[str, dict[str, str]]:
        found = {}
        for path in (folder / "store" / "entries").glob("*/*/weights.safetensors"):
            entry = json.loads((path.parent / "entry.json").read_text())
            found[entry["label"]] = {"key": entry["key"], "weights": digest.of_file(path)}
        return found

    assert set(weights(straight)) == {"teacher", "student", "distill", "prune", "quantize"}
    assert weights(straight) == weights(broken)


@pytest.mark.slow
def test_interrupted_in_each_stage_it_says_so_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    recipe = new_project(tmp_path / "quarters")
    for stage in STAGES:
        child = start(recipe, tmp_path)
        errors = stop_when(child, moments(tmp_path)[stage], signal.SIGINT)
        assert child.returncode == 130, errors
        assert "interrupted" in errors and "Traceback" not in errors
        assert list((tmp_path / "store" / "tmp").iterdir()) == []
        assert not (tmp_path / "out" / "report.json").exists()
