"""Small networks of many families, with random weights from a seed: the crowd that `crowd.py` compiles, as ONNX files.

Each is a function of no arguments that gives a torch module and its example inputs; batch norms are settled on noise before
the export, so that activations have the sizes that a trained network's have. 10 k to 3 M parameters, batch 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Made = tuple[nn.Module, tuple[Tensor, ...]]
NETS: dict[str, tuple[str, Callable[[], Made]]] = {}
"""Name → (family, maker)."""


def net(family: str) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    def keep(made: Callable[[], Made]) -> Callable[[], Made]:
        NETS[made.__name__] = (family, made)
        return made

    return keep


class Lambda(nn.Module):
    """`run(module, *inputs)` as its forward; its keyword modules are children."""

    def __init__(self, run: Callable[..., object], **children: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *inputs: Tensor) -> object:
        return self.run(self, *inputs)


def conv(
    a: int, b: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] | None = nn.ReLU, d: int = 2
) -> nn.Sequential:
    """Convolution over `d` axes, batch norm, activation."""
    kinds = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}
    made = [kinds[d][0](a, b, k, s, k // 2, groups=g, bias=False), kinds[d][1](b)]
    return nn.Sequential(*made, *([act()] if act else []))


def residual(inner: nn.Module, skip: nn.Module | None = None, act: nn.Module | None = None) -> nn.Module:
    last, shortcut = act or nn.Identity(), skip or nn.Identity()
    return Lambda(lambda m, x: m.last(m.inner(x) + m.skip(x)), inner=inner, skip=shortcut, last=last)


def basic(a: int, b: int, s: int = 1, d: int = 2) -> nn.Module:
    skip = None if a == b and s == 1 else conv(a, b, 1, s, act=None, d=d)
    return residual(nn.Sequential(conv(a, b, 3, s, d=d), conv(b, b, act=None, d=d)), skip, nn.ReLU())


def head(a: int, classes: int = 10, d: int = 2) -> nn.Sequential:
    return nn.Sequential({1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}[d](1), nn.Flatten(), nn.Linear(a, classes))


def squeeze(a: int, r: int = 4) -> nn.Module:
    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(a, a // r, 1), nn.ReLU(), nn.Conv2d(a // r, a, 1), nn.Hardsigmoid()
    )
    return Lambda(lambda m, x: x * m.gate(x), gate=gate)


def inverted(a: int, b: int, s: int = 1, t: int = 4, act: type[nn.Module] = nn.ReLU6, se: bool = False) -> nn.Module:
    h = a * t
    gate = [squeeze(h)] if se else []
    inner = nn.Sequential(conv(a, h, 1, act=act), conv(h, h, 3, s, h, act=act), *gate, conv(h, b, 1, act=None))
    return residual(inner) if a == b and s == 1 else inner


def image(size: int, channels: int = 3) -> tuple[Tensor, ...]:
    return (torch.randn(1, channels, size, size),)


class Attention(nn.Module):
    """Multi-head attention as exporters usually write it; `memory` is attended to, by default the tokens themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.q, self.k, self.v, self.o = heads, *(nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(1, x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        m = x if memory is None else memory
        q, k, v = self.split(self.q(x)), self.split(self.k(m)), self.split(self.v(m))
        scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
        mixed: Tensor = self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(1, x.shape[1], -1))
        return mixed


def linear_attention(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = (F.elu(m.q(x)) + 1, F.elu(m.k(x)) + 1, m.v(x))
    mixed: Tensor = m.o((q @ (k.transpose(1, 2) @ v)) / (q @ k.sum(1).unsqueeze(-1)))
    return mixed


def encoder(
    width: int, heads: int, depth: int, wide: int = 4, pre: bool = False, act: type[nn.Module] = nn.GELU
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        mlp = nn.Sequential(nn.Linear(width, width * wide), act(), nn.Linear(width * wide, width))
        for part in (Attention(width, heads), mlp):
            norm = nn.LayerNorm(width)
            layers.append(residual(nn.Sequential(norm, part)) if pre else nn.Sequential(residual(part), norm))
    return nn.Sequential(*layers)


def patches(size: int, width: int) -> nn.Module:
    return Lambda(lambda m, x: m.c(x).flatten(2).transpose(1, 2), c=nn.Conv2d(3, width, size, size))


def pooled(width: int, classes: int = 10) -> nn.Module:
    return Lambda(lambda m, x: m.l(x.mean(1)), l=nn.Linear(width, classes))


def ids(length: int, rows: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, rows, (1, length)),)


def export(name: str, file: Path) -> int:
    """Write the network as it would be given to edgekd; returns its parameters."""
    torch.manual_seed(sum(map(ord, name)))
    module, inputs = NETS[name][1]()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.momentum = None  # the mean of what it sees
    with torch.no_grad():
        module.train()
        for _ in range(3):
            module(*(torch.randn_like(x) if x.is_floating_point() else x for x in inputs))
    names = [f"x{i}" for i in range(len(inputs))]
    torch.onnx.export(module.eval(), inputs, str(file), input_names=names, opset_version=17, dynamo=False)
    return sum(p.numel() for p in module.parameters())
