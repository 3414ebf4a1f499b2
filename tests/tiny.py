"""The smallest real case: 12 × 12 images in four classes, a residual student, a wider teacher, a context to run in.

    student = tiny_saved(tmp_path / "in")         a Student's folder; with `trained=True` it knows the classes
    context = tiny_context(tmp_path, seed=1)      everything real: data, teacher, checkpoints in tmp_path / "work"

Nothing here is a stand-in: stages run as in a recipe, only smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.data import Dataset
from edgekd.latency.table import Pricing
from edgekd.progress import Progress
from edgekd.stage import Context
from edgekd.student import Student, save
from edgekd.teacher import Teacher
from edgekd.teachers.module import Module

CLASSES = 4
torch.set_num_threads(1)  # small work, and the same bits whatever the machine


class Block(nn.Module):
    """x + bn(conv(relu(bn(conv(x))))), then relu: the coupled channels that pruning must keep together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class TinyNet(nn.Module):
    """images [batch, 1, 12, 12] → logits [batch, classes]; 2,524 parameters at width 8, 9,652 at width 16."""

    def __init__(self, width: int = 8, classes: int = CLASSES, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.block = Block(width)
        wide = 2 * width
        self.down = nn.Sequential(nn.Conv2d(width, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(wide, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.down(self.block(self.stem(x))).mean((2, 3))))


def tiny_student(width: int = 8, seed: int = 0, trained: bool = False) -> nn.Module:
    """A new student, its weights drawn from `seed`; `trained`: it knows the classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TinyNet(width)
    if trained:
        network.load_state_dict(_fitted(width, seed))
    return network


@cache
def _fitted(width: int, seed: int) -> dict[str, torch.Tensor]:
    network, (inputs, targets) = tiny_student(width, seed), tiny_data().train
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
    order = torch.Generator().manual_seed(seed)
    for _ in range(60):
        batch = torch.randint(len(inputs), (64,), generator=order)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
        optimizer.step()
    return network.state_dict()


@cache
def tiny_data(train: int = 256, validation: int = 96, test: int = 96, noise: float = 0.8, seed: int = 0) -> Dataset:
    """The class is the quadrant that is brighter by one; everything has Gaussian noise on it."""
    generator = torch.Generator().manual_seed(seed)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = torch.arange(count) % CLASSES
        images = noise * torch.randn(count, 1, 12, 12, generator=generator)
        for image, target in zip(images, targets.tolist(), strict=True):
            image[0, target // 2 * 6 :, target % 2 * 6 :][:6, :6] += 1.0
        return images, targets

    return Dataset(split(train), split(validation), split(test), labels=("nw", "ne", "sw", "se"))


def noisy(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """An augmentation: a little more noise. [batch, ...], same shape out."""
    return inputs + 0.3 * torch.randn(inputs.shape, generator=generator)


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of samples whose largest logit is the target's."""
    return float((outputs.argmax(1) == targets).mean())


def tiny_saved(folder: Path, width: int = 8, seed: int = 0, trained: bool = False) -> Student:
    """A Student's folder, no edits yet."""
    folder.mkdir(parents=True, exist_ok=True)
    signature = {
        "inputs": [{"name": "image", "shape": [None, 1, 12, 12], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [None, CLASSES], "dtype": "float32"}],
        "preprocessing": {},
        "labels": ["nw", "ne", "sw", "se"],
    }
    save(folder, tiny_student(width, seed, trained).state_dict(), [], signature, {"factory": "tiny:tiny_student"})
    return Student(folder, lambda **arguments: tiny_student(**{"width": width, "seed": seed, **arguments}))


def _unpriced() -> Pricing:
    raise AssertionError("a stage without a budget asked for a latency table")


def tiny_context(
    folder: Path, *, data: Dataset | None = None, teacher: Teacher | None = None, **changes: Any
) -> Context:
    """A context whose teacher is a trained TinyNet of width 16 and whose checkpoints are in `folder / "work"`.

    `changes` replaces any field of Context: seed=1, channel_multiple=4, metric=…
    """
    data, teacher = data or tiny_data(), teacher or Module(tiny_student(16, 7, trained=True))
    known: dict[tuple[str, bool], torch.Tensor] = {}

    def teacher_logits(name: str, make: Callable[[], torch.Tensor], each: bool = False) -> torch.Tensor:
        if (name, each) not in known:
            asked = teacher.each if each else teacher.outputs
            known[name, each] = torch.cat([asked(batch) for batch in make().split(64)])
        return known[name, each]

    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    context = Context(
        factory=lambda seed=0, /, **arguments: tiny_student(seed=seed, **arguments),
        data=lambda: data,
        metric=accuracy,
        teacher=lambda: teacher,
        teacher_logits=teacher_logits,
        calibration=lambda: list(data.train[0][:64].split(32)),
        pricing=_unpriced,
        observer="minmax",
        progress=Progress(quiet=True),
        work=work,
        seed=0,
        channel_multiple=1,
        grid="affine",
    )
    return replace(context, **changes)
