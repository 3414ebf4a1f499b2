"""Attention heads: which layers make and read them, so that whole heads can go.

An attention is a module that remembers how many heads it has, with query, key and value as three linear layers of its own or
as one, side by side. What reads the heads is the linear layer that is called next, in that module or after it. That is a
guess by form; where the heads lie in a fused layer, and which of the sizes that the module remembers must follow, are guesses
too. `groups.unproved` takes the first that holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import nn

from edgekd.pruning.groups import HEADS, Group, Member, unproved

NUMBERS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "nheads", "heads")
"""What modules call the number of their heads."""
SUPPORTED = (
    "supported are query, key and value of one width, as three linear layers or as one, whose heads lie side by side, "
    "and a forward pass that takes the number of heads from them or from the module"
)

Places = tuple[tuple[int, ...], ...]


def heads(network: nn.Module, inputs: torch.Tensor) -> Iterator[tuple[Group, str]]:
    """The heads of each attention as a group, and why they must all stay, or "". `inputs` [batch, ...] are a few real samples."""
    order = _called(network, inputs)
    layers = dict(network.named_modules())
    for name, module in layers.items():
        if isinstance(module, nn.MultiheadAttention):
            yield Group(name, module.num_heads, ()), f"a {type(module).__name__} of a form that an edit cannot open"
            continue
        number = next((n for n in NUMBERS if type(vars(module).get(n)) is int), "")
        own = [n for n in order if n.rpartition(".")[0] == name]
        if number and own:
            yield _heads(network, inputs, order, name, number, own)


def _heads(
    network: nn.Module, inputs: torch.Tensor, order: list[str], name: str, number: str, own: list[str]
) -> tuple[Group, str]:
    """The group of one attention, whose linear layers `own` are called in this order."""
    count = int(vars(network.get_submodule(name))[number])
    makers = own[:3] if len(own) >= 3 else own[:1]
    behind = order[order.index(makers[-1]) + 1 :]
    if not behind:
        return Group(name, count, ()), f"no linear layer reads its heads: {SUPPORTED}"
    made, reads = [_linear(network, maker) for maker in makers], _linear(network, behind[0])
    width = made[0].out_features if len(made) == 3 else made[0].out_features // 3
    alone = Group(name, count, tuple(Member(m, layer, "out", ()) for m, layer in zip(makers, made, strict=True)))
    if count < 2:
        return alone, "it has one head"
    if {layer.out_features for layer in made} not in ({width}, {3 * width}) or width % count:
        return alone, f"its query, key and value are not of one width that its {count} heads share: {SUPPORTED}"
    if reads.in_features != width:
        return alone, f'"{behind[0]}", called next, does not read its {count} heads: {SUPPORTED}'
    reason = ""
    for places, sizes in product(_layouts(len(made), count, width // count), _sizes(network, name, number, width)):
        members = [Member(m, layer, "out", places) for m, layer in zip(makers, made, strict=True)]
        members.append(Member(behind[0], reads, "in", _rows(count, width // count)))
        group = Group(name, count, tuple(members), sizes, HEADS)
        wrong = unproved(network, group, inputs)
        if not wrong:
            return group, ""
        reason = reason or wrong
    return group, f"{reason}: {SUPPORTED}"


def _linear(network: nn.Module, name: str) -> nn.Linear:
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _rows(count: int, wide: int) -> Places:
    """Heads side by side.

    >>> _rows(2, 3)
    ((0, 1, 2), (3, 4, 5))
    """
    return tuple(tuple(range(head * wide, (head + 1) * wide)) for head in range(count))


def _layouts(makers: int, count: int, wide: int) -> Iterator[Places]:
    """Where the heads may lie in what makes them: of a fused layer [3, heads, wide], [heads, 3, wide] or [heads, wide, 3].

    >>> list(_layouts(1, 2, 1))
    [((0, 2, 4), (1, 3, 5)), ((0, 1, 2), (3, 4, 5))]
    """
    if makers == 3:
        yield _rows(count, wide)
        return
    apart = _rows(count, wide)
    yield tuple(tuple(part * count * wide + p for part in range(3) for p in head) for head in apart)
    yield _rows(count, 3 * wide)


def _sizes(network: nn.Module, name: str, number: str, width: int) -> Iterator[Mapping[tuple[str, str], int]]:
    """Which remembered sizes follow the heads: their number, besides it whatever equals their joint width, or nothing."""
    remembered = vars(network.get_submodule(name))
    count = int(remembered[number])
    yield {(name, number): 1}
    wide = [key for key, value in remembered.items() if type(value) is int and value == width and key != number]
    if wide:
        yield {(name, number): 1} | {(name, key): width // count for key in wide}
    yield {}


@torch.no_grad()
def _called(network: nn.Module, inputs: torch.Tensor) -> list[str]:
    """The linear layers in the order in which they are first called."""
    called: dict[str, None] = {}
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    hooks = [m.register_forward_hook(lambda _m, _i, _o, n=n: called.setdefault(n)) for n, m in layers.items()]
    try:
        network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return list(called)
