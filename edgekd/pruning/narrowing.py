"""Narrowing one layer to the channels that stay: weights, statistics and what the layer remembers of its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

Side = Literal["out", "in"]


def channels(layer: nn.Module, side: Side) -> int:
    """How many channels a layer has on one side. Raises ValueError for a layer that has none there."""
    if isinstance(layer, _ConvNd):
        return layer.out_channels if side == "out" else layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features if side == "out" else layer.in_features
    if isinstance(layer, _BatchNorm) and side == "out":
        return layer.num_features
    if isinstance(layer, nn.PReLU) and side == "out" and layer.num_parameters > 1:
        return layer.num_parameters
    if isinstance(layer, nn.Embedding) and side == "out" and layer.max_norm is None:
        return layer.embedding_dim
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and side == "out" and len(layer.normalized_shape) == 1:
        return int(layer.normalized_shape[0])
    raise ValueError(f'a {type(layer).__name__} has no "{side}" channels to keep')


def narrowing(layer: nn.Module, sides: Mapping[Side, Sequence[int]]) -> Callable[[], None]:
    """What narrows this layer, checked now and done when called. Raises ValueError for indices that do not fit."""
    for side, indices in sides.items():
        fits(side, indices, channels(layer, side))
    if isinstance(layer, _ConvNd):
        blocks = _blocks(layer, sides)
        return lambda: _narrow_conv(layer, blocks)
    if isinstance(layer, nn.Linear):
        return lambda: _narrow_linear(layer, sides)
    if isinstance(layer, nn.Embedding):
        return lambda: _narrow_embedding(layer, sides["out"])
    return lambda: _narrow_vectors(layer, sides["out"])


def narrowing_tensor(owner: nn.Module, name: str, sides: Mapping[Side, Sequence[int]]) -> Callable[[], None]:
    """The same for the last axis of a parameter or buffer that a module holds by itself."""
    value: torch.Tensor = getattr(owner, name)
    if "in" in sides or not value.dim():
        raise ValueError('a tensor by itself has "out" channels only, those of its last axis')
    kept = sides["out"]
    fits("out", kept, value.shape[-1])

    def narrow() -> None:
        some = value[..., list(kept)]
        setattr(owner, name, _like(value, some) if isinstance(value, nn.Parameter) else some.clone())

    return narrow


def fits(side: Side, indices: Sequence[int], size: int) -> None:
    """Raises ValueError for indices that are none, out of range or out of order."""
    if not indices:
        raise ValueError(f'"{side}" keeps nothing')
    if wrong := next((i for i in indices if not 0 <= i < size), None):
        raise ValueError(f'"{side}" keeps channel {wrong}, there are {size}')
    if any(a >= b for a, b in pairwise(indices)):
        raise ValueError(f'"{side}" is not in ascending order')


def _blocks(layer: _ConvNd, sides: Mapping[Side, Sequence[int]]) -> list[tuple[list[int], list[int]]]:
    """(out channels, in channels) that stay in each convolution group that stays. An ordinary convolution is one group.

    A side that is not listed keeps all that belongs to the groups that stay: a depth-wise convolution, whose groups are
    single channels, loses the same channels on both sides.
    """
    outs, ins = (_by_group(sides.get(side), channels(layer, side), layer.groups) for side in ("out", "in"))
    blocks = [(o, i) for o, i in zip(outs, ins, strict=True) if o and i]
    torn = any(bool(o) != bool(i) for o, i in zip(outs, ins, strict=True)) and len(sides) == 2
    if torn or len({(len(o), len(i)) for o, i in blocks}) != 1:
        raise ValueError(f"its {layer.groups} groups would not stay equally wide")
    return blocks


def _by_group(kept: Sequence[int] | None, size: int, groups: int) -> list[list[int]]:
    wide = size // groups
    found: list[list[int]] = [[] for _ in range(groups)]
    for index in range(size) if kept is None else kept:
        found[index // wide].append(index)
    return found


def _narrow_conv(layer: _ConvNd, blocks: Sequence[tuple[list[int], list[int]]]) -> None:
    """weight [out, in / groups, ...], of a transposed convolution [in, out / groups, ...]."""
    within = layer.weight.shape[1]
    tiles = []
    for outs, ins in blocks:
        rows, columns = (ins, outs) if layer.transposed else (outs, ins)
        tiles.append(layer.weight[rows][:, [c % within for c in columns]])
    every = [o for outs, _ in blocks for o in outs]
    layer.weight = _like(layer.weight, torch.cat(tiles))
    if layer.bias is not None:
        layer.bias = _like(layer.bias, layer.bias[every])
    layer.out_channels, layer.in_channels, layer.groups = len(every), sum(len(i) for _, i in blocks), len(blocks)


def _narrow_linear(layer: nn.Linear, sides: Mapping[Side, Sequence[int]]) -> None:
    """weight [out, in], bias [out]."""
    if "out" in sides:
        layer.weight = _like(layer.weight, layer.weight[list(sides["out"])])
        if layer.bias is not None:
            layer.bias = _like(layer.bias, layer.bias[list(sides["out"])])
    if "in" in sides:
        layer.weight = _like(layer.weight, layer.weight[:, list(sides["in"])])
    layer.out_features, layer.in_features = layer.weight.shape


def _narrow_embedding(layer: nn.Embedding, kept: Sequence[int]) -> None:
    """weight [words, out]."""
    layer.weight = _like(layer.weight, layer.weight[:, list(kept)])
    layer.embedding_dim = len(kept)


def _narrow_vectors(layer: nn.Module, kept: Sequence[int]) -> None:
    """A norm or PReLU: every parameter and statistic is one vector [channels]; a batch counter is a scalar."""
    for name, value in layer.named_parameters():
        setattr(layer, name, _like(value, value[list(kept)]))
    for name, buffer in layer.named_buffers():
        if buffer.dim():
            setattr(layer, name, buffer[list(kept)].clone())
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = (len(kept),)
    else:
        setattr(layer, "num_features" if isinstance(layer, _BatchNorm) else "num_parameters", len(kept))


def _like(before: torch.Tensor, values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(), requires_grad=before.requires_grad)
