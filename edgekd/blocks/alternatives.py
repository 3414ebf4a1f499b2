"""The alternatives to a block: what could stand in its place and compute less.

    image          no block · 1/2, 1/4 of its inner width · a separable convolution · one 3 × 3, one 1 × 1 convolution
    attention      no attention · one linear layer · 1/2, 1/4 of its heads
    feed-forward   no feed-forward network · one linear layer · 1/2, 1/4, 1/8 of its inner width
    pair           no feed-forward network · 1/2, 1/4, 1/8 of its inner width

Source: Bercovich et al. 2024 (Puzzle, arXiv 2411.19146), whose search space for a transformer this is, with heads left out where
that has fewer key-value heads; what stands for blocks of images follows MobileNet (Howard et al. 2017, arXiv 1704.04861).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgekd.blocks import attention
from edgekd.blocks.calls import Record, one_by_one
from edgekd.blocks.edits import Attention, Conv, Kind, Linear, Nothing, Same, Separable
from edgekd.blocks.find import Block
from edgekd.blocks.local import error
from edgekd.criteria.magnitude import Magnitude
from edgekd.pipeline.judge import size
from edgekd.pruning.groups import kept_sides
from edgekd.pruning.widths import best, rounded
from edgekd.student import Edit, replay

SHARES = {"image": (2, 4), "attention": (2, 4), "feed-forward": (2, 4, 8), "pair": (2, 4, 8)}
"""Widths and numbers of heads, as parts of the whole."""


@dataclass(frozen=True, eq=False)
class Alternative:
    """`edits` make it of the network; `start`: weights to begin with, by their names in the network, where those are known."""

    name: str
    edits: tuple[Edit, ...]
    start: Mapping[str, torch.Tensor] = field(default_factory=dict)


def alternatives(
    network: nn.Module, block: Block, calls: Record, example: torch.Tensor, multiple: int
) -> list[Alternative]:
    """Those that fit the block's shapes and compute or store less than it, on widths that are multiples of `multiple`.

    `calls`: of the block's host, on some samples; `network` in eval mode is not changed.
    """
    whole = _size(network, example)
    found: list[Alternative] = []
    for one in _fitting(network, block, calls, multiple):
        edited = copy.deepcopy(network)
        replay(edited, one.edits)
        less = _size(edited.eval(), example)
        cheaper = less["macs"] < whole["macs"] or less["parameters"] < whole["parameters"]
        if cheaper and all(one.edits != other.edits for other in found):
            found.append(one)
    return found


def _size(network: nn.Module, example: torch.Tensor) -> dict[str, int]:
    with one_by_one():
        return size(network, example)


def _fitting(network: nn.Module, block: Block, calls: Record, multiple: int) -> Iterator[Alternative]:
    if block.form == "pair":
        *ones, last = block.site
        reader = network.get_submodule(last)
        assert isinstance(reader, nn.Linear)
        none: Kind = Nothing(outputs=reader.out_features)
        blocks = {**{one: Same().model_dump() for one in ones}, last: none.model_dump()}
        yield Alternative("dropped", ({"edit": "replace", "blocks": blocks},))
    elif block.form == "image":
        yield from _of_images(block, calls)
    else:
        yield from _of_tokens(network, block, calls)
    for part in SHARES[block.form]:
        if (edit := _narrow(block, part, multiple)) is not None:
            yield Alternative(f"1/{part} of the width", (edit,))


def _replaced(name: str, path: str, kind: Kind, start: nn.Module | None = None) -> Alternative:
    edit = {"edit": "replace", "blocks": {path: kind.model_dump()}}
    inside = f"{path}." if kind.call == "plain" else f"{path}.body."
    known = {f"{inside}{key}": value for key, value in start.state_dict().items()} if start is not None else {}
    return Alternative(name, (edit,), known)


def _dropped(block: Block, calls: Record, zeros: bool) -> Alternative | None:
    """No block: what came in, or nothing, whichever is nearer to what the block gave. A sum around it then adds nothing."""
    x, y, call = calls.x, calls.output, _call(calls)
    same = x.shape == y.shape
    if same and (not zeros or float(error(x, y)) < 1.0):
        return _replaced("dropped", block.host, Same(call=call))
    return _replaced("dropped", block.host, Nothing(call=call, outputs=y.shape[-1])) if zeros else None


def _of_images(block: Block, calls: Record) -> Iterator[Alternative]:
    if (none := _dropped(block, calls, zeros=False)) is not None:
        yield none
    x, y = calls.x, calls.output
    stride = [_stride(before, after) for before, after in zip(x.shape[2:], y.shape[2:], strict=True)]
    if not all(stride):
        return
    same, relu = x.shape == y.shape, bool(y.min() >= 0)
    shape: dict[str, Any] = {
        "inputs": x.shape[1],
        "outputs": y.shape[1],
        "stride": stride,
        "relu": relu,
        "call": _call(calls),
    }
    residual = same and float(error(x, y)) < 1.0
    yield _replaced("separable", block.host, Separable(**shape, residual=residual))
    yield _replaced("3 × 3 convolution", block.host, Conv(**shape, kernel=3))
    yield _replaced("1 × 1 convolution", block.host, Conv(**shape, kernel=1))


def _of_tokens(network: nn.Module, block: Block, calls: Record) -> Iterator[Alternative]:
    if calls.x.shape[:-1] != calls.output.shape[:-1]:
        return
    if (none := _dropped(block, calls, zeros=True)) is not None:
        yield none
    call, width = _call(calls), calls.x.shape[-1]
    yield _replaced("linear", block.host, Linear(call=call, inputs=width, outputs=calls.output.shape[-1]))
    if block.form != "attention":
        return
    whole = attention.read(network.get_submodule(block.host), calls)
    for part in SHARES["attention"] if whole is not None else ():
        assert whole is not None
        if count := whole.heads // part:
            wide = whole.query.out_features // whole.heads
            kind = Attention(call=call, width=width, heads=count, head_width=wide)
            yield _replaced(f"1/{part} of the heads", block.host, kind, attention.fewer(whole, calls.x, count))


def _narrow(block: Block, part: int, multiple: int) -> Edit | None:
    """The block with a part of its inner channels, those of the largest weights; None where that rounds back to all of them."""
    scores = {group.name: Magnitude()(group) for group in block.groups}
    widths = {name: rounded(len(values) / part, len(values), multiple) for name, values in scores.items()}
    if all(widths[name] == len(values) for name, values in scores.items()):
        return None
    kept = kept_sides(block.groups, best(scores, widths))
    return {"edit": "prune", "kept": kept, "criterion": "magnitude", "ratio": 1 - 1 / part}


def _call(calls: Record) -> Any:
    return "plain" if calls.plain else "pair" if calls.pair else "tensor"


def _stride(before: int, after: int) -> int:
    """The stride of a padded convolution that makes `after` of `before`; 0 where none does.

    >>> _stride(28, 28), _stride(28, 14), _stride(7, 4), _stride(12, 10), _stride(14, 28)
    (1, 2, 2, 0, 0)
    """
    return next((stride for stride in range(1, before + 1) if -(-before // stride) == after), 0)


def merged(edits: Sequence[Edit]) -> list[Edit]:
    """Edits of different blocks as one of each kind: they touch different modules, so their order does not matter.

    >>> merged([{"edit": "replace", "blocks": {"a": 1}}, {"edit": "prune", "kept": {"b": 2}}, {"edit": "replace", "blocks": {"c": 3}}])
    [{'edit': 'prune', 'kept': {'b': 2}, 'criterion': 'magnitude'}, {'edit': 'replace', 'blocks': {'a': 1, 'c': 3}}]
    """
    kept = {name: sides for edit in edits if edit["edit"] == "prune" for name, sides in edit["kept"].items()}
    blocks = {name: kind for edit in edits if edit["edit"] == "replace" for name, kind in edit["blocks"].items()}
    found: list[Edit] = [{"edit": "prune", "kept": kept, "criterion": "magnitude"}] if kept else []
    return [*found, {"edit": "replace", "blocks": blocks}] if blocks else found
