"""The examples in CONTRIBUTING.md are files that work: each is loaded as a plugin and used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backends.folders import float_model, write_program
from tiny import tiny_saved, tiny_student
from torch import nn

from edgekd import registry
from edgekd.backend import load_engine, open_backend
from edgekd.pruning.groups import find
from edgekd.target import Calibration, Target, find_calibration, find_target
from tests.sources.given import given

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = dict(
    re.findall(r"```python\n# edgekd/(\w+/\w+)\.py\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Write an example to a file, register it, and give back the class that it exports."""
    monkeypatch.setattr(registry, "_plugins", {})

    def load(example: str) -> Any:
        folder, name = example.split("/")
        file = tmp_path / f"{name}.py"
        file.write_text(EXAMPLES[example])
        registry.add_plugin(f"{folder}={file}")
        assert name in registry.names(folder)
        return registry.find(folder, name)

    return load


def test_there_is_an_example_of_each_kind() -> None:
    assert {example.split("/")[0] for example in EXAMPLES} == set(registry.FOLDERS) - {"stages"}


def test_no_example_is_in_the_tree_already() -> None:
    for example in EXAMPLES:
        assert not (ROOT / "edgekd" / f"{example}.py").exists(), f"{example} is no longer something to add"


def test_the_loss(plugin: Any) -> None:
    loss = plugin("losses/logit_mse")()
    found = loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
    assert float(found) == pytest.approx((1 + 4) / 2)


def test_the_criterion(plugin: Any) -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([-1.0, 2.0, 3.0]).view(3, 1, 1, 1))
    (group,) = find(network, torch.ones(2, 1, 4, 4)).prunable
    assert plugin("criteria/l1")()(group).tolist() == pytest.approx([0.5, 1.0, 1.5])


def test_the_observer(plugin: Any) -> None:
    """Of -1, 1, 3, 5: μ = 2, σ = √5."""
    plugin("observers/six_sigma")
    observer = registry.build("observers", "six_sigma", {"sigmas": 1})
    observer.update(torch.tensor([-1.0, 5.0]))
    observer.update(torch.tensor([1.0, 3.0]))
    assert observer.range() == (pytest.approx(2 - 5**0.5), pytest.approx(2 + 5**0.5))
    wide = registry.build("observers", "six_sigma", {})
    wide.update(torch.tensor([-1.0, 5.0]))
    assert wide.range() == (-1.0, 5.0)


def test_the_source(plugin: Any, tmp_path: Path) -> None:
    source, student = plugin("sources/uniform")(), tiny_saved(tmp_path / "student")
    recipe = Calibration(name="noise", source="uniform", count=300, seed=1)
    first, second = (source.inputs(student, recipe, given(tmp_path)) for _ in range(2))
    assert first.shape == (300, 1, 12, 12)
    assert torch.equal(first, second)
    assert float(first.min()) == pytest.approx(-1, abs=1e-3)
    assert float(first.max()) == pytest.approx(1, abs=1e-3)


def test_the_teacher(plugin: Any) -> None:
    network, images = tiny_student(), torch.randn(2, 1, 12, 12)
    teacher = plugin("teachers/mirrored")(network)
    mirrored = teacher.outputs(images.flip(3))
    assert torch.allclose(teacher.outputs(images), mirrored, atol=1e-6)
    assert not network.training


def test_the_backend(plugin: Any, tmp_path: Path) -> None:
    plugin("backends/reference")
    program, images = write_program(tmp_path / "program", float_model()), np.ones((1, 1, 8, 8), np.float32)
    outputs = {}
    for name in ("reference", "onnxruntime"):
        backend, engine = open_backend(name), tmp_path / name
        engine.mkdir()
        assert backend.unsupported(program, {"precisions": ["float32"]}) == []
        backend.compile(program, engine, {}, 1)
        with load_engine(engine) as session:
            (outputs[name],) = session.run([images])
    assert outputs["reference"] == pytest.approx(outputs["onnxruntime"], abs=1e-5)


@pytest.mark.parametrize(("kind", "read"), [("targets", find_target), ("calibration", find_calibration)])
def test_the_data_files(kind: str, read: Any, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / kind / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    found: Target | Calibration = read("mine.toml", tmp_path)
    assert found.name == "mine"
    assert found.notes
