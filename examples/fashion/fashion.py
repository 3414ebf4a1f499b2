"""Fashion-MNIST for edgekd: the four things that a user brings: a teacher, a student, the data, a metric.

`edgekd compile recipe.toml` imports this file because the recipe says `factory = "fashion:student"`. Any further key of
a section is an argument of its factory: `width = 32`, `full = true`.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edgekd

HERE = Path(__file__).parent
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training images, in units of 1 = white


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels), conv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x))


class Teacher(nn.Module):
    """A nine-layer residual net, 431 k parameters. images [batch, 1, 28, 28] -> logits [batch, 10].

    In eval mode it looks at each image and at its mirror image, and averages the two answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 32), nn.MaxPool2d(2))
        self.middle = nn.Sequential(conv(32, 48), Residual(48), nn.MaxPool2d(2))
        self.top = nn.Sequential(conv(48, 96), Residual(96), Residual(96))
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.look(x) if self.training else (self.look(x) + self.look(x.flip(3))) / 2

    def look(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.top(self.middle(self.stem(x))).amax((2, 3)))


class Student(nn.Module):
    """A smaller net of the same kind; most of its work is at 14 x 14. images [batch, 1, 28, 28] -> logits [batch, 10]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, width), nn.MaxPool2d(2))
        self.middle = nn.Sequential(Residual(width), conv(width, 2 * width, stride=2))
        self.top = nn.Sequential(Residual(2 * width), conv(2 * width, 4 * width, stride=2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.top(self.middle(self.stem(x)))).flatten(1))


def teacher() -> nn.Module:
    return Teacher()


def student(width: int = 32) -> nn.Module:
    return Student(width)


def data(full: bool = False) -> edgekd.Dataset:
    """The subset beside this file, or (`full = true`) the whole set from Debian's package."""
    if full:
        splits = debian()
    else:
        with np.load(HERE / "fashion.npz", allow_pickle=False) as stored:
            splits = {s: (stored[f"{s}_images"], stored[f"{s}_labels"]) for s in ("train", "validation", "test")}
    return edgekd.Dataset(
        **{name: tensors(*arrays) for name, arrays in splits.items()},
        augment=augment,
        labels=LABELS,
        preprocessing={"scale": 1 / 255, "mean": [MEAN], "std": [STD], "layout": "NCHW"},
    )


def balanced_accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """The recall of each class, averaged: `metric = "fashion:balanced_accuracy"`. outputs [n, 10], targets [n]."""
    right = outputs.argmax(1) == targets
    return float(np.mean([right[targets == c].mean() for c in np.unique(targets)]))


def debian() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The whole set from Debian's package: split -> (images [n, 28, 28] uint8, labels [n]).

    The last 500 training images of each class are held out as the validation split: 55,000 + 5,000 + 10,000.
    """

    def read(name: str, header: int) -> np.ndarray:
        path = DEBIAN / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not found\nhint: apt-get install dataset-fashion-mnist")
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read("train-labels-idx1-ubyte.gz", 8)
    held_out = np.zeros(len(labels), bool)
    for c in range(10):
        held_out[np.flatnonzero(labels == c)[-500:]] = True
    test = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28), read("t10k-labels-idx1-ubyte.gz", 8)
    return {
        "train": (images[~held_out], labels[~held_out]),
        "validation": (images[held_out], labels[held_out]),
        "test": test,
    }


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images [n, 28, 28] -> normalised floats [n, 1, 28, 28]; labels -> int64 [n]."""
    scaled = (torch.from_numpy(images.astype(np.float32)) / 255 - MEAN) / STD
    return scaled.unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image flipped left-right or not, then shifted by up to two pixels. [batch, 1, 28, 28], same shape out."""
    batch, _, height, width = images.shape
    flip = torch.rand(batch, generator=generator) < 0.5
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
    shift = torch.randint(0, 5, (2, batch, 1), generator=generator)
    rows = shift[0] + torch.arange(height)
    columns = shift[1] + torch.arange(width)
    padded = nn.functional.pad(images, (2, 2, 2, 2), value=-MEAN / STD)
    return padded[torch.arange(batch).view(-1, 1, 1), 0, rows.unsqueeze(2), columns.unsqueeze(1)].unsqueeze(1)
