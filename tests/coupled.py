"""Small networks, one for each way in which channels are coupled, with random weights and statistics that are not trivial."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import hardswish, relu

torch.set_num_threads(1)  # these networks are too small to share


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode, each parameter and statistic drawn at random, so that no two channels are alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator)
                value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else 0.5 * drawn)
    return network.eval()


def images(batch: int = 3, seed: int = 0) -> torch.Tensor:
    """[batch, 3, 6, 6]"""
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(outputs))


class Plain(nn.Module):
    """Convolution without batch norm, a PReLU with one slope a channel, transposed convolution, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slope = nn.Conv2d(3, 8, 3), nn.PReLU(8)
        self.up, self.last = nn.ConvTranspose2d(8, 6, 2), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(relu(self.up(self.slope(self.first(x)))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer, self.head = conv(3, 8), conv(8, 12), conv(12, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.stem(x))
        return self.head((x + self.outer(relu(self.inner(x)))).mean((2, 3)))


class Depthwise(nn.Module):
    """Inverted residual: expand, depth-wise, squeeze-and-excite, project."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise, self.project = conv(3, 8), conv(8, 8, groups=8), conv(8, 6)
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = hardswish(self.depthwise(hardswish(self.expand(x))))
        gate = torch.sigmoid(self.excite(relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head(self.project(x * gate).mean((2, 3)))


class Concat(nn.Module):
    """Two branches side by side, read by a batch norm and a convolution, then summed with a third of their joint width."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.joint = conv(3, 4), conv(3, 6), conv(10, 10)
        self.norm, self.last, self.head = nn.BatchNorm2d(10), conv(10, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(relu(self.last(relu(self.norm(both + self.joint(both))))).mean((2, 3)))


class Flatten(nn.Module):
    """Each channel becomes 36 inputs of a linear layer; a batch norm over features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden, self.norm, self.head = (
            conv(3, 5),
            nn.Linear(5 * 36, 9),
            nn.BatchNorm1d(9),
            nn.Linear(9, 4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(relu(self.norm(self.hidden(relu(self.stem(x)).flatten(1)))))


class Sequence(nn.Module):
    """One-dimensional convolutions: rows of the image as a sequence [batch, 18, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv1d(18, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(relu(self.norm(self.first(x.flatten(1, 2))))).mean(2)


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle, written with views: shapes still fit after a wrong pruning, values do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 8), conv(8, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.first(x)).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(self.second(x).mean((2, 3)))


class Grouped(nn.Module):
    """Two convolution groups; a layer norm; a sum with the network's own input; a free parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.wide, self.grouped = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, groups=2)
        self.hidden, self.norm = nn.Linear(6, 7), nn.LayerNorm(7)
        self.second, self.shift, self.head = nn.Linear(7, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = relu(self.grouped(self.wide(x + self.same(x)))).mean((2, 3))
        return self.head(relu(self.second(self.norm(self.hidden(x))) + self.shift))


PRUNABLE = (Plain, Residual, Depthwise, Concat, Flatten, Sequence)
