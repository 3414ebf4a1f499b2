"""Making images: nearer to what batch norm remembers than noise is, inside the range of pixels, the same after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekd import registry
from edgekd.errors import EdgekdError, UserError
from edgekd.student import Student
from edgekd.synthesis.canvas import Bounds, Generator
from edgekd.synthesis.statistics import distance, remembered, watched
from edgekd.teachers.module import Module
from tests.sources.given import PIXELS, given, inputs, recipe, saved

NO_PIXELS: dict[str, Any] = {"preprocessing": {}}


def gap(student: Student, images: torch.Tensor) -> float:
    """How far the images' batch-norm inputs are from what the student remembers."""
    network = student.network().requires_grad_(False)
    with watched(network) as taken, torch.no_grad():
        network(images)
        return float(sum(distance(moments, *remembered(module)) for module, moments in taken()))


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("bn_statistics", {}),
        ("bn_statistics", {"joint": True, "batch": 8}),
        ("bn_statistics", {"flips": True, "crop": 0.7, "shift": 1, "low_pass": 4.0}),
        ("bn_statistics", {"label": 0.1, "stretch": 0.01}),
        ("genie", {}),
        ("genie", {"joint": True, "batch": 8}),
        ("genie", {"label": 0.1, "easy": 0.7, "activation": 0.1, "low_pass": 4.0, "shift": 1}),
    ],
)
def test_statistics_come_nearer(tmp_path: Path, source: str, options: dict[str, Any]) -> None:
    student = saved(tmp_path, **NO_PIXELS)
    set_up = {"steps": 25, "batch": 20, **({"lr": 0.3} if source == "bn_statistics" else {}), **options}
    noise = inputs("gaussian", tmp_path, student)
    assert gap(student, inputs(source, tmp_path, student, options=set_up)) < 0.6 * gap(student, noise)


def test_joint_statistics_are_met_by_the_set_not_by_each_batch(tmp_path: Path) -> None:
    student, apart, whole = saved(tmp_path, **NO_PIXELS), {}, {}
    for joint in (False, True):
        options = {"steps": 20, "batch": 4, "lr": 0.1, "joint": joint}
        images = inputs("bn_statistics", tmp_path / str(joint), student, options=options)
        whole[joint] = gap(student, images)
        apart[joint] = sum(gap(student, part) for part in images.split(4)) / 5
    assert whole[True] < 0.5 * apart[True]
    assert apart[False] < 0.5 * apart[True]


@pytest.mark.parametrize("source", ["bn_statistics", "genie", "teacher"])
def test_known_pixels_bound_the_images(tmp_path: Path, source: str) -> None:
    """Scale 1/255, mean 0.5, std 0.25: black is −2, white 2."""
    images = inputs(source, tmp_path, saved(tmp_path, preprocessing=PIXELS), options={"steps": 5})
    assert -2 <= float(images.min()) < -1 and 1 < float(images.max()) <= 2


def test_bounds_reflect_and_hold() -> None:
    """Black −2, white 2: 2.5 comes back to 1.5, 7 is held at −2 (reflected to −3)."""
    bounds = Bounds.of(PIXELS, 1)
    assert bounds is not None and Bounds.of({"mean": [0.0]}, 1) is None
    assert bounds.reflected(torch.tensor([[[2.5, -2.25, 1.0, 7.0]]])).flatten().tolist() == [1.5, -1.75, 1.0, -2.0]


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 28, 28), (3, 33, 20), (3, 96, 96)])
def test_generators_make_the_size_asked_for(shape: tuple[int, int, int]) -> None:
    generator = Generator(shape, 16, 16, None)
    assert generator(torch.randn(2, 16)).shape == (2, *shape)
    assert max(generator.sizes[0]) <= 14 and len(generator.sizes) >= 3


def test_a_finished_batch_survives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd.synthesis import optimise

    whole = inputs("bn_statistics", tmp_path / "whole")
    seen: list[int] = []
    real = optimise.Synthesis._loss

    def failing(self: Any, canvas: Any, part: slice, *rest: Any) -> torch.Tensor:
        seen.append(part.start)
        if part.start == 13 and len(set(seen)) == 3 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return real(self, canvas, part, *rest)

    monkeypatch.setattr(optimise.Synthesis, "_loss", failing)
    around = given(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        inputs("bn_statistics", tmp_path / "broken", around=around)
    assert sorted(path.name for path in around.work.iterdir()) == ["batch-0.checkpoint", "batch-1.checkpoint"]
    (tmp_path / "again").touch()
    seen.clear()
    assert torch.equal(inputs("bn_statistics", tmp_path / "broken", around=around), whole)
    assert set(seen) == {13}


def test_a_loss_that_explodes_is_said(tmp_path: Path) -> None:
    with pytest.raises(EdgekdError, match="the loss is (nan|inf) at step"):
        inputs("bn_statistics", tmp_path, saved(tmp_path, **NO_PIXELS), options={"steps": 4, "lr": 1e30})


def test_a_student_without_batch_norm_is_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("bn_statistics", "genie"):
        with pytest.raises(UserError, match=f'source "{name}" reads batch-norm statistics'):
            registry.build("sources", name, {}).check(recipe(name, tmp_path), lambda: nn.Linear(3, 2))


class Plain(nn.Module):
    """A network without batch norm: images [batch, 1, 12, 12] → logits [batch, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(144, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.body(x.flatten(1))))
        return out


def test_the_teacher_becomes_sure_and_the_student_agrees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, student = Plain(), saved(tmp_path, **NO_PIXELS)
    around = given(tmp_path, teacher=lambda: Module(plain))
    images = inputs("teacher", tmp_path, student, around, options={"steps": 60, "batch": 20})
    noise = inputs("gaussian", tmp_path, student)
    with torch.no_grad():
        sure, before = (plain(x).softmax(1).amax(1).mean() for x in (images, noise))
    assert float(sure) > float(before) + 0.2
    assert set(plain(images).argmax(1).tolist()) == {0, 1, 2, 3}


def test_whom_the_teacher_source_cannot_ask(tmp_path: Path) -> None:
    class BlackBox:
        pass

    with pytest.raises(UserError, match="the recipe has none"):
        inputs("teacher", tmp_path, around=given(tmp_path, teacher=None))
    with pytest.raises(UserError, match="needs gradients, which an ONNX teacher has none of"):
        inputs("teacher", tmp_path, around=given(tmp_path, teacher=BlackBox))


@pytest.mark.parametrize("source", ["gaussian", "bn_statistics", "genie", "teacher"])
def test_tokens_cannot_be_made_up(tmp_path: Path, source: str) -> None:
    spec = {"name": "tokens", "shape": [1, 12], "dtype": "int64"}
    with pytest.raises(UserError, match="int64 inputs"):
        inputs(source, tmp_path, saved(tmp_path, inputs=[spec]))


def test_vectors_are_made_but_not_flipped(tmp_path: Path) -> None:
    spec = {"name": "x", "shape": [1, 3], "dtype": "float32"}
    student = saved(tmp_path, inputs=[spec])
    with pytest.raises(UserError, match=r"makes images, the inputs are \[3\]"):
        inputs("bn_statistics", tmp_path, student, options={"flips": True})
    with pytest.raises(UserError, match=r"makes images, the inputs are \[3\]"):
        inputs("genie", tmp_path, student)
