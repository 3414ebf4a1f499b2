"""Small networks on 1×28×28 with the shapes of layers that a quantizer meets, their batch norms warm."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)


def conv(
    i: int, o: int, stride: int = 1, kernel: int = 3, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    layer = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(o), act())


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels), conv(channels, channels, act=nn.Identity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def residual() -> nn.Module:
    return nn.Sequential(
        conv(1, 8), nn.MaxPool2d(2), Residual(8), conv(8, 16, 2), Residual(16), Mean(), nn.Linear(16, 10)
    )


class Mobile(nn.Module):
    """Depthwise convolutions, ReLU6, a linear bottleneck added to its input; a head of maxima."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 8, 2, act=nn.ReLU6), conv(8, 8, 1, 3, 8, nn.ReLU6))
        self.wide = nn.Sequential(
            conv(8, 24, 1, 1, 1, nn.ReLU6), conv(24, 24, 2, 3, 24, nn.ReLU6), conv(24, 8, 1, 1, act=nn.Identity)
        )
        self.short, self.head = conv(8, 8, 2, 1, act=nn.Identity), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((self.wide(x) + self.short(x)).amax((2, 3)))


class Odd(nn.Module):
    """In-place operators, an ε of its own, concatenation, groups, a gate, dropout, an activation with two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.Conv2d(1, 8, 1, 2)
        self.norm = nn.BatchNorm2d(8, eps=1e-2)
        self.c, self.gate = conv(16, 16, groups=4), nn.Conv2d(16, 16, 1)
        self.drop, self.head = nn.Dropout(0.4), nn.Linear(16 * 49, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([F.relu_(self.norm(self.a(x))), self.b(x)], 1)
        y = self.c(x)
        y += x
        y = F.relu_(y)
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        return self.head(self.drop(F.avg_pool2d(y, 2).flatten(1)))


class Products(nn.Module):
    """images [batch, 1, 28, 28] → [batch, 10]: a convolution's integers, and a norm's floats, go into linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(1, 16, 4, 4), nn.Linear(784, 32)
        self.norm, self.wide, self.back = nn.LayerNorm(32), nn.Linear(32, 512), nn.Linear(512, 32)
        self.small = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.first(torch.relu(self.conv(x)).flatten(1)))
        x = x + self.back(F.gelu(self.wide(self.norm(x))).reshape(-1, 512))
        return self.small(F.gelu(x))


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16, bias=False), nn.ReLU6(), nn.Linear(16, 10)
    )  # fmt: skip


def segments() -> nn.Module:
    """No batch norm at the end, and the output is an image."""
    return nn.Sequential(conv(1, 8), nn.Conv2d(8, 4, 1))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "residual": residual, "mobile": Mobile, "odd": Odd, "dense": dense, "segments": segments,
}  # fmt: skip


def inputs(count: int, seed: int = 0) -> torch.Tensor:
    """Images [count, 1, 28, 28]."""
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def warm(name: str, seed: int = 0) -> nn.Module:
    """The network of that name with statistics, gains and shifts of its own in each batch norm; in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ZOO[name]().train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.0, 0.3)
        with torch.no_grad():
            for step in range(20):
                model(inputs(16, step))
        return model.eval()
