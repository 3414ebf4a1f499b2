"""Heads of attentions: read from whatever holds them, proved, and left out where they give least."""

from __future__ import annotations

import pytest
import torch
from blocks.networks import Joined
from torch import nn

from edgekd.blocks.attention import fewer, read
from edgekd.blocks.calls import record


class Split(nn.Module):
    """Key before query, and a value apart."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.heads, self.scale = 2, scale
        self.k, self.q, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = (q @ k.transpose(2, 3) * self.scale / 2).softmax(3) @ v
        return self.o(y.transpose(1, 2).flatten(2))


class Own(nn.MultiheadAttention):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return super().forward(x, x, x)


@pytest.mark.parametrize(
    ("make", "width"), [(lambda: Joined(4), 16), (Split, 8), (lambda: Own(8, 2, batch_first=True), 8)]
)
def test_the_heads_compute_what_the_module_does(make: type[nn.Module], width: int) -> None:
    torch.manual_seed(0)
    module, x = make().eval(), torch.randn(5, 7, width)
    found = read(module, record(nn.Sequential(module), "0", x))
    assert found is not None
    expected = module(x)
    assert torch.allclose(found(x), expected[0] if isinstance(expected, tuple) else expected, atol=1e-5)


def test_an_attention_of_another_kind_is_left_alone() -> None:
    module = Split(scale=3.0).eval()
    assert read(module, record(nn.Sequential(module), "0", torch.randn(5, 7, 8))) is None
    assert read(nn.Linear(8, 8), record(nn.Sequential(nn.Linear(8, 8)), "0", torch.randn(5, 7, 8))) is None


def test_the_head_that_gives_least_goes_and_what_it_gave_on_average_stays() -> None:
    """The value of head 0 is made constant: without it nothing changes, though its weights are the largest."""
    torch.manual_seed(0)
    module, x = Split().eval(), torch.randn(5, 7, 8)
    with torch.no_grad():
        module.v.weight[:4] = 0.0
        module.v.bias[:4] *= 0.1
        module.q.weight[:4] *= 5
    found = read(module, record(nn.Sequential(module), "0", x))
    assert found is not None
    less = fewer(found, x, 1)
    assert less.query.weight.shape == (4, 8) and torch.equal(less.query.weight, module.q.weight[4:])
    assert torch.allclose(less(x), module(x), atol=1e-5)
