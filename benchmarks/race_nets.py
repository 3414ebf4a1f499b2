"""The networks that `race.py` races, with random weights from a seed, and inputs that their own float outputs label."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edgekd

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "fashion"))
import fashion

SEED = 0
SAMPLES = 128
JUDGED = {"example student": 1024, "example teacher": 1024, "crepe tiny": 1024}
"""Samples that engines are judged on; 256 of the larger networks."""
ROWS = 30522


def block(a: int, b: int, k: int = 3, s: int = 1, g: int = 1, act: bool = True) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(b), *([nn.ReLU6()] if act else [])
    )


class Inverted(nn.Module):
    def __init__(self, a: int, b: int, s: int, t: int) -> None:
        super().__init__()
        self.adds = s == 1 and a == b
        first = [block(a, a * t, 1)] if t > 1 else []
        self.body = nn.Sequential(*first, block(a * t, a * t, 3, s, a * t), block(a * t, b, 1, act=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, arXiv 1801.04381, table 2."""
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    parts: list[nn.Module] = [block(3, 32, 3, 2)]
    width = 32
    for t, c, n, s in rows:
        for index in range(n):
            parts.append(Inverted(width, c, s if index == 0 else 1, t))
            width = c
    return nn.Sequential(*parts, block(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


class Basic(nn.Module):
    def __init__(self, a: int, b: int, s: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(a, b, 3, s, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b))
        same = s == 1 and a == b
        self.skip = nn.Identity() if same else nn.Sequential(nn.Conv2d(a, b, 1, s, bias=False), nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(self.one(x)) + self.skip(x))


def resnet_18() -> nn.Module:
    """He et al. 2015, arXiv 1512.03385, table 1."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    steps = (
        (64, 64, 1),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
    )
    return nn.Sequential(
        *stem, *(Basic(*one) for one in steps), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)
    )


class Layer(nn.Module):
    """Vaswani et al. 2017, arXiv 1706.03762, section 3.1, as BERT has it: norms behind the sums, GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (f(x).reshape(batch, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2)) * (width // self.heads) ** -0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = self.first(x + self.o(mixed))
        found: Tensor = self.second(x + self.mlp(x))
        return found


class MiniLm(nn.Module):
    """Six layers of 384 on 128 tokens (Wang et al. 2020, arXiv 2002.10957), the mean of which is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(ROWS, 384), nn.Parameter(torch.randn(1, 128, 384) * 0.02)
        self.norm, self.layers = nn.LayerNorm(384), nn.Sequential(*(Layer(384, 12) for _ in range(6)))

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.layers(self.norm(self.words(ids) + self.places)).mean(1)
        return found


def crepe_tiny() -> nn.Module:
    """Kim et al. 2018, arXiv 1802.06182, figure 1, with the released tiny capacity: 1,024 samples of audio to 360 pitches."""
    widths = [1, 128, 16, 16, 16, 32, 64]
    kernels, steps = [512, 64, 64, 64, 64, 64], [4, 1, 1, 1, 1, 1]
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 1, 1024))]
    for a, b, k, s in zip(widths, widths[1:], kernels, steps, strict=False):
        before = (k - s) // 2
        pad = nn.ConstantPad2d((before, k - s - before, 0, 0), 0.0)
        parts += [pad, nn.Conv2d(a, b, (1, k), (1, s)), nn.ReLU(), nn.BatchNorm2d(b), nn.MaxPool2d((1, 2))]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(256, 360))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "example student": (partial(fashion.student, 24), (1, 28, 28)),
    "example teacher": (fashion.teacher, (1, 28, 28)),
    "mobilenet_v2 96": (mobilenet_v2, (3, 96, 96)),
    "mobilenet_v2 224": (mobilenet_v2, (3, 224, 224)),
    "resnet_18 224": (resnet_18, (3, 224, 224)),
    "minilm_l6 128": (MiniLm, (128,)),
    "crepe tiny": (crepe_tiny, (1024,)),
}
"""Name → (maker, shape of a sample)."""


def noise(name: str, count: int, seed: int) -> Tensor:
    shape = (count, *NETS[name][1])
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, ROWS, shape, generator=random) if "minilm" in name else torch.randn(shape, generator=random)


def network(name: str) -> nn.Module:
    """The network, its batch norms settled on noise."""
    torch.manual_seed(SEED)
    made = NETS[name][0]()
    for part in made.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = None  # the mean of what it sees
    with torch.no_grad():
        made.train()(noise(name, 8, SEED))
    return made.eval()


def data(name: str) -> edgekd.Dataset:
    """Noise, labelled by the float network: an engine's accuracy is how often it agrees with that."""
    made, splits = network(name), {}
    for index, split in enumerate(("train", "validation", "test")):
        inputs = noise(name, SAMPLES, index + 1)
        with torch.no_grad():
            labels = torch.cat([made(part).argmax(1) for part in inputs.split(16)])
        splits[split] = (inputs, labels)
    return edgekd.Dataset(**splits)


@lru_cache(1)
def judged(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, the float network's outputs) that engines are judged on."""
    made, inputs = network(name), noise(name, JUDGED.get(name, 256), 4)
    with torch.no_grad():
        return inputs.numpy(), torch.cat([made(part) for part in inputs.split(16)]).numpy()
