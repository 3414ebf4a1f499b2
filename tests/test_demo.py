"""The example: what the repository ships is what it says, and its recipe runs, here with fewer epochs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from project import edgekd

import edgekd as package
from edgekd.student import load_weights, read_weights
from edgekd.training.train import fastest_layout, logits_of

EXAMPLE = Path(__file__).parent.parent / "examples" / "fashion"
SHORT = [
    "distill.epochs=1",
    "prune.epochs=1",
    "distill.views=1",
    "prune.views=1",
    "quantize.qat.views=1",
    "measure.seconds=1.0",
    "measure.processes=2",
    "measure.wait=0",
]


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    sys.modules.pop("fashion", None)
    import fashion

    return fashion


def test_the_subset_is_small_stratified_and_from_the_whole_set(fashion: object) -> None:
    assert (EXAMPLE / "fashion.npz").stat().st_size <= 6e6
    assert (EXAMPLE / "teacher.safetensors").stat().st_size <= 1.5e6
    assert "MIT" in (EXAMPLE / "LICENSE.fashion-mnist").read_text()
    data = fashion.data()  # type: ignore[attr-defined]
    for split in ("train", "validation", "test"):
        counts = torch.bincount(data.split(split)[1], minlength=10)
        assert len(set(counts.tolist())) == 1
    if fashion.DEBIAN.is_dir():  # type: ignore[attr-defined]
        whole = fashion.data(full=True)  # type: ignore[attr-defined]
        known = {image.numpy().tobytes() for image in whole.test[0]}
        assert all(image.numpy().tobytes() in known for image in data.test[0])
        assert [len(whole.split(s)[0]) for s in ("train", "validation", "test")] == [55_000, 5_000, 10_000]


def test_the_teacher_has_its_accuracy_on_the_full_test_set(fashion: object) -> None:
    if not fashion.DEBIAN.is_dir():  # type: ignore[attr-defined]
        pytest.skip("apt-get install dataset-fashion-mnist")
    teacher = fashion.teacher()  # type: ignore[attr-defined]
    load_weights(teacher, read_weights(EXAMPLE / "teacher.safetensors"), "teacher.safetensors")
    images, labels = fashion.data(full=True).test  # type: ignore[attr-defined]
    layout = fastest_layout(teacher.eval(), images[:2])
    right = logits_of(teacher, images.contiguous(memory_format=layout)).argmax(1) == labels
    assert float(right.float().mean()) >= 0.94


def test_the_whole_set_says_how_to_install_it(fashion: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        fashion.data(full=True)  # type: ignore[attr-defined]


def test_the_users_own_metric(fashion: object) -> None:
    outputs, targets = np.eye(10)[[0, 0, 0, 1]], np.array([0, 0, 1, 1])
    assert fashion.balanced_accuracy(outputs, targets) == 0.75  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_recipe_runs_and_the_integer_engine_gives_its_programs_answers(tmp_path: Path) -> None:
    sets = [part for value in SHORT for part in ("--set", value)]
    out = tmp_path / "out"
    done = edgekd("compile", EXAMPLE / "recipe.toml", "--store", tmp_path / "store", "--out", out, "--json", *sets)
    assert done.returncode in (0, 1), done.stderr  # 1: a student so briefly trained may not keep the budget
    target = json.loads(done.stdout)["targets"][0]
    engines = {c["version"]: c for c in target["candidates"]}
    integer = engines["quantize"]
    assert integer["parity"]["top1"] >= 0.999
    assert integer["float_nodes"] == 0 and integer["integer_nodes"] >= 9
    assert integer["bytes"] <= 0.35 * engines["distill"]["bytes"]
    floats = [engine for engine in engines.values() if engine["precision"] == "float32"]
    assert len(floats) >= 3 and all(engine["parity"]["top1"] == 1.0 for engine in floats)
    with package.load(out / "bundles" / "host") as session:
        assert session.signature.labels[9] == "Ankle boot"
