"""Small networks of blocks: an inverted residual, and encoders as people write them, all from images [batch, 1, 12, 12] to 4 classes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu

WIDTH = 16


class Inverted(nn.Module):
    """Expand, depth-wise, project; with a sum around it where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 2 * inputs
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
            nn.Sequential(
                nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
            ),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.summed = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.summed else self.layers(x)


class Mobile(nn.Module):
    """A stem and two inverted residuals in one chain."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.features = nn.Sequential(stem, Inverted(8, 8, 1), Inverted(8, 12, 2))
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Joined(nn.Module):
    """Self-attention with one layer for query, key and value."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).flatten(2))


class PreNorm(nn.Module):
    """A layer whose parts are modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Joined(4)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), mask=None)
        return x + self.mlp(self.norm2(x))


class PostNorm(nn.Module):
    """A layer that computes its feed-forward network itself, around an attention that gives its weights too."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.first, self.second = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        return self.norm2(x + self.second(gelu(self.first(x))))


class Encoder(nn.Module):
    """The rows of an image as tokens [batch, 12, WIDTH], through these layers."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(12, WIDTH), nn.Parameter(0.1 * torch.randn(1, 12, WIDTH))
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x[:, 0]) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def encoder(seed: int = 0) -> nn.Module:
    """One layer of each form."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(PreNorm(), PostNorm()).eval()
