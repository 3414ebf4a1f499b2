"""Replaying a prune edit: a freshly built network is narrowed to what the edit keeps, in place.

    {"edit": "prune", "criterion": "teacher_gap", "ratio": 0.3,
     "kept": {"stem.0": {"out": [0, 2, 3]}, "stem.1": {"out": [0, 2, 3]}, "head": {"in": [0, 2, 3]}}}

`kept` lists, for each module that changes, the channels that stay, by their index in the network that the edit found; of a
parameter or buffer by itself, those of its last axis. A side that is not listed keeps everything. A transformer's has more:

    "opened": ["layers.0.self_attn"]                  each `nn.MultiheadAttention` becomes layers that can be narrowed
    "sizes": {"layers.0.self_attn": {"num_heads": 2}}           what a module remembers of its size, from now on
    "removed": {"layers.1.linear1": 0, "layers.1.linear2": 0}   parts of residual branches, in whose place is zero: how
                                                                many outputs each had (`edgekd.pruning.replaced.Nothing`)

An edit is data that came with an artefact: it is checked before anything is touched, no code from it runs, and
Torch-Pruning is not needed to follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from edgekd.errors import UserError, nearest
from edgekd.pruning.narrowing import Side, narrowing, narrowing_tensor
from edgekd.pruning.replaced import Attention, Nothing, put

HINT = "was the edit made for another factory, or with other arguments?"
MOST_OUTPUTS = 16  # of a removed part; more would be no attention


class PruneEdit(BaseModel):
    """The edit as it stands in `edits.json`, types checked without coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    edit: Literal["prune"]
    kept: dict[str, dict[Side, list[int]]]
    opened: list[str] = []
    sizes: dict[str, dict[str, int]] = {}
    removed: dict[str, int] = {}
    criterion: str = ""
    ratio: float = 0.0


def replay(module: nn.Module, edit: Mapping[str, Any]) -> None:
    """Narrow `module` in place to what `edit` keeps; the weights that stay are copied, so weights and structure both follow.

    Raises UserError, before anything is changed, for an edit of another form, a module that is not there or has no
    channels, an index out of range or out of order, a grouped convolution that would be left lopsided, a size that a
    module does not remember, and a part that lies in another one that is removed.
    """
    try:
        told = PruneEdit.model_validate(dict(edit))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"a prune edit is malformed: {where}: {first['msg']}", hint=HINT) from None
    layers = {name: layer for name, layer in module.named_modules() if name}
    opened = {name: _fitting(name, layers, _opened) for name in told.opened}
    layers |= {
        f"{name}.{part}" if part else name: layer for name, new in opened.items() for part, layer in new.named_modules()
    }
    loose = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    changes: list[Callable[[], None]] = []
    for name, sides in told.kept.items():
        owner, _, own = name.rpartition(".")
        if name not in layers and name in loose:
            holder = layers[owner] if owner else module
            changes.append(_fitting(name, {name: holder}, narrowing_tensor, own, sides))
        else:
            changes.append(_fitting(name, layers, narrowing, sides))
    changes += [_fitting(name, {"": module, **layers}, _resizing, sizes) for name, sizes in told.sizes.items()]
    nothings = {
        name: _fitting(name, layers, _removed, name, outputs, told.removed) for name, outputs in told.removed.items()
    }
    for name, new in opened.items():
        _put(module, name, new)
    with torch.no_grad():
        for change in changes:
            change()
    for name, nothing in nothings.items():
        _put(module, name, nothing)


def closed(module: nn.Module) -> list[str]:
    """What an edit lists as "opened" before any attention of the network can be narrowed, in the network's own order."""
    found = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention) and name and layer.bias_k is None and not layer.add_zero_attn:
            found.append(name)
    return found


def _fitting(name: str, layers: Mapping[str, nn.Module], of: Callable[..., Any], *given: Any) -> Any:
    """`of(layer, *given)`. Raises UserError for a name that the student has not, and in place of a ValueError."""
    if name not in layers:
        raise UserError(
            f'a prune edit names the module "{name}", which the student has not', hint=nearest(name, layers)
        )
    try:
        return of(layers[name], *given)
    except ValueError as error:
        raise UserError(f'a prune edit does not fit "{name}": {error}', hint=HINT) from None


def _opened(layer: nn.Module) -> Attention:
    if not isinstance(layer, nn.MultiheadAttention):
        raise ValueError(f"a {type(layer).__name__} is no nn.MultiheadAttention to open")
    return Attention(layer)


def _resizing(layer: nn.Module, sizes: Mapping[str, int]) -> Callable[[], None]:
    """What sets the sizes that a layer remembers, whole numbers that it already has, to smaller ones."""
    for attribute, size in sizes.items():
        before = vars(layer).get(attribute)
        if not isinstance(before, int) or isinstance(before, bool):
            raise ValueError(f'a {type(layer).__name__} has no size "{attribute}"')
        if not 1 <= size <= before:
            raise ValueError(f'"{attribute}" becomes {size}, it is {before}')
    return lambda: vars(layer).update(sizes)


def _removed(layer: nn.Module, name: str, outputs: int, removed: Sequence[str]) -> Nothing:
    if inside := next((other for other in removed if name.startswith(f"{other}.")), ""):
        raise ValueError(f'it lies in "{inside}", which is removed as well')
    if not 0 <= outputs <= MOST_OUTPUTS:
        raise ValueError(f"it cannot have had {outputs} outputs")
    return Nothing(outputs, bool(getattr(layer, "batch_first", False)))


def _put(module: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in a module's place; an `nn.TransformerEncoder` around it then calls its layers one by one."""
    put(module, name, new)
    for around, layer in module.named_modules():
        if isinstance(layer, nn.TransformerEncoder) and name.startswith(f"{around}." if around else ""):
            layer.use_nested_tensor = False
