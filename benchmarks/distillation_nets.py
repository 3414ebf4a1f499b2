"""Networks and data for benchmarks/distillation.py that examples/fashion has not: several teachers, a transformer, few labels.

The factories that its recipes name. Fashion-MNIST whole comes from Debian's package: apt-get install dataset-fashion-mnist.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from fashion import LABELS, MEAN, STD, Teacher, augment, conv, debian, tensors
from torch import nn

import edgekd

CHUNK = 512
WORK = Path(__file__).resolve().parent.parent / "out" / "benchmark-distillation"
PREPROCESSING = {"scale": 1 / 255, "mean": [MEAN], "std": [STD], "layout": "NCHW"}


class Committee(nn.Module):
    """Several of the example's teachers: the mean of their log-probabilities. images [batch, 1, 28, 28] → [batch, 10]."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(Teacher() for _ in range(members))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(x).log_softmax(1) for member in self.members]).mean(0)


class Block(nn.Module):
    """Attention, then two layers for each token; norms before both. tokens [batch, n, width] → the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        parts = self.attend(self.first(x)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(found.transpose(1, 2).reshape(batch, count, width))
        return x + self.each(self.second(x))


class Transformer(nn.Module):
    """Dosovitskiy et al. 2020 (arXiv 2010.11929) behind a stem of convolutions (Xiao et al. 2021, arXiv 2106.14881).

    images [batch, 1, 28, 28] → 49 tokens → logits [batch, 10].
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, width // 2, stride=2), conv(width // 2, width, stride=2))
        self.places = nn.Parameter(0.02 * torch.randn(1, 49, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def committee(of: int = 3) -> nn.Module:
    return Committee(of)


def transformer(width: int = 64, depth: int = 4, heads: int = 4) -> nn.Module:
    return Transformer(width, depth, heads)


@lru_cache(1)
def data(
    count: int = 55000, copies: int = 2, judged: int = 10000, labelled: float = 1.0, alone: bool = False
) -> edgekd.Dataset:
    """The first `count` training images, as many of each class; of validation and test the first `judged`.

    Each is there `copies` times, as it is and then flipped and shifted, the same for every seed: so the teacher is asked once
    for all. Of the share `labelled` of each class the label is kept; `alone`: the others are left out, and these repeated
    until there are as many, so that an epoch has as many steps.
    """
    splits = {name: tensors(*arrays) for name, arrays in debian().items()}
    images, labels = splits["train"]
    chosen = _of_each(labels, count // 10)
    images, labels = images[chosen], labels[chosen]
    if labelled < 1:
        known = _of_each(labels, max(round(labelled * count / 10), 1))
        if alone:
            known = known.repeat(-(-len(labels) // len(known)))[: len(labels)]
            images, labels = images[known], labels[known]
        else:
            kept = labels[known]
            labels = torch.full_like(labels, -1)
            labels[known] = kept
    generator = torch.Generator().manual_seed(0)
    views = [torch.cat([augment(part, generator) for part in images.split(CHUNK)]) for _ in range(copies - 1)]
    judges = {name: (splits[name][0][:judged], splits[name][1][:judged]) for name in ("validation", "test")}
    train = torch.cat([images, *views]), labels.repeat(copies)
    return edgekd.Dataset(train, **judges, labels=LABELS, preprocessing=PREPROCESSING)


def made_up(file: str, judged: int = 10000) -> edgekd.Dataset:
    """Images without labels from an .npz file under `WORK`; the teacher's classes of the last fifth choose the epoch; real ones judge."""
    with np.load(WORK / file, allow_pickle=False) as stored:
        images, classes = torch.from_numpy(stored["images"]), torch.from_numpy(stored["classes"])
    cut = len(images) * 4 // 5
    unlabelled = torch.full((cut,), -1)
    test = tensors(*(part[:judged] for part in debian()["test"]))
    return edgekd.Dataset(
        (images[:cut], unlabelled),
        (images[cut:], classes[cut:]),
        test,
        augment=augment,
        labels=LABELS,
        preprocessing=PREPROCESSING,
    )


def _of_each(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the first `count` samples of every class, in the order of the file."""
    return torch.cat([(labels == c).nonzero().squeeze(1)[:count] for c in range(10)]).sort().values
