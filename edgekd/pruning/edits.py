"""Replaying a prune edit: a freshly built network is narrowed to the channels that the edit keeps, in place.

    {"edit": "prune", "criterion": "teacher_gap", "ratio": 0.3,
     "kept": {"stem.0": {"out": [0, 2, 3]}, "stem.1": {"out": [0, 2, 3]}, "head": {"in": [0, 2, 3]}}}

`kept` lists, for each module that changes, the channels that stay, by their index in the network that the edit found. A side
that is not listed keeps everything. An edit is data that came with an artefact: it is checked before anything is touched, no
code from it runs, and Torch-Pruning is not needed to follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from edgekd.errors import UserError, nearest

Side = Literal["out", "in"]
HINT = "was the edit made for another factory, or with other arguments?"


class PruneEdit(BaseModel):
    """The edit as it stands in `edits.json`, types checked without coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    edit: Literal["prune"]
    kept: dict[str, dict[Side, list[int]]]
    criterion: str = ""
    ratio: float = 0.0


def replay(module: nn.Module, edit: Mapping[str, Any]) -> None:
    """Narrow `module` in place to what `edit` keeps; the weights that stay are copied, so weights and structure both follow.

    Raises UserError, before anything is changed, for an edit of another form, a module that is not there or has no
    channels, an index out of range or out of order, and a grouped convolution that would be left lopsided.
    """
    try:
        kept = PruneEdit.model_validate(dict(edit)).kept
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"a prune edit is malformed: {where}: {first['msg']}", hint=HINT) from None
    layers = dict(module.named_modules())
    narrowings = []
    for name, sides in kept.items():
        if name not in layers:
            message = f'a prune edit names the module "{name}", which the student has not'
            raise UserError(message, hint=nearest(name, layers))
        try:
            narrowings.append(_narrowing(layers[name], sides))
        except ValueError as error:
            raise UserError(f'a prune edit does not fit "{name}": {error}', hint=HINT) from None
    with torch.no_grad():
        for narrow in narrowings:
            narrow()


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
    raise ValueError(f'a {type(layer).__name__} has no "{side}" channels to keep')


def _narrowing(layer: nn.Module, sides: Mapping[Side, Sequence[int]]) -> Callable[[], None]:
    """What narrows this layer, checked now and done when called. Raises ValueError for indices that do not fit."""
    for side, indices in sides.items():
        size = channels(layer, side)
        if not indices:
            raise ValueError(f'"{side}" keeps nothing')
        if wrong := next((i for i in indices if not 0 <= i < size), None):
            raise ValueError(f'"{side}" keeps channel {wrong}, there are {size}')
        if any(a >= b for a, b in pairwise(indices)):
            raise ValueError(f'"{side}" is not in ascending order')
    if isinstance(layer, _ConvNd):
        blocks = _blocks(layer, sides)
        return lambda: _narrow_conv(layer, blocks)
    if isinstance(layer, nn.Linear):
        return lambda: _narrow_linear(layer, sides)
    return lambda: _narrow_vectors(layer, sides["out"])


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


def _narrow_vectors(layer: nn.Module, kept: Sequence[int]) -> None:
    """A batch norm or PReLU: every parameter and statistic is one vector [channels]; the batch counter is a scalar."""
    for name, value in layer.named_parameters():
        setattr(layer, name, _like(value, value[list(kept)]))
    for name, buffer in layer.named_buffers():
        if buffer.dim():
            setattr(layer, name, buffer[list(kept)].clone())
    setattr(layer, "num_features" if isinstance(layer, _BatchNorm) else "num_parameters", len(kept))


def _like(before: torch.Tensor, values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(), requires_grad=before.requires_grad)
