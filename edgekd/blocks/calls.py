"""What a module within a network is given and gives: its arguments and its output, caught for many samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

CHUNK = 64
"""Samples that run through the network at once."""


@dataclass(frozen=True, eq=False)
class Record:
    """The calls of one module on n samples. `leaves`: its arguments, flattened; `rows`: which of them have a row a sample.

    `output` [n, ...]: what it gave, of several things the first; `pair`: there were several.
    """

    leaves: tuple[Any, ...]
    rows: tuple[bool, ...]
    spec: TreeSpec
    output: torch.Tensor
    pair: bool

    @property
    def x(self) -> torch.Tensor:
        """Its first argument [n, ...]."""
        found: torch.Tensor = self.leaves[0]
        return found

    @property
    def plain(self) -> bool:
        """Whether it takes one tensor and nothing else, and gives one."""
        return len(self.leaves) == 1 and not self.pair

    def call(self, module: nn.Module, rows: torch.Tensor | slice, x: torch.Tensor | None = None) -> torch.Tensor:
        """What `module`, called as the one recorded, gives for these samples; `x`: with this as the first argument instead,
        wherever that was given.
        """
        leaves = [
            x if x is not None and leaf is self.leaves[0] else leaf[rows] if own else leaf
            for leaf, own in zip(self.leaves, self.rows, strict=True)
        ]
        args, kwargs = tree_unflatten(leaves, self.spec)
        return first(module(*args, **kwargs))


def record(network: nn.Module, name: str, inputs: torch.Tensor) -> Record:
    """The calls of the module `name` while the network, in eval mode, computes inputs [n, ...]; of one that is called several
    times in a network, always with the same shapes, all calls, so that there are several times n.

    The first sample goes alone: what has a row for each sample is then told from what only happens to be as long as a batch.
    """
    given: list[tuple[list[Any], TreeSpec]] = []
    got: list[tuple[torch.Tensor, bool]] = []
    module = network.get_submodule(name)
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs: given.append(_copied((args, kwargs))), with_kwargs=True
        ),
        module.register_forward_hook(
            lambda _, __, output: got.append((first(output).clone(), isinstance(output, torch.Tensor)))
        ),
    ]
    sizes: list[int] = []
    try:
        with torch.no_grad(), one_by_one():
            for part in [inputs[:1], *inputs[1:].split(CHUNK)]:
                network(part)
                sizes += [len(part)] * (len(got) - len(sizes))
    finally:
        for hook in hooks:
            hook.remove()
    columns = list(zip(*(leaves for leaves, _ in given), strict=True))
    joined: dict[tuple[int, ...], Any] = {}
    rows = []
    for column in columns:
        own = all(isinstance(one, torch.Tensor) and one.dim() > 0 for one in column)
        own = own and [len(one) for one in column] == sizes
        rows.append(own)
        key = tuple(map(id, column))
        if key not in joined:
            joined[key] = torch.cat(column) if own else column[-1]
    leaves = tuple(joined[tuple(map(id, column))] for column in columns)
    output = torch.cat([one for one, _ in got])
    return Record(leaves, tuple(rows), given[0][1], output, not got[0][1])


def first(output: Any) -> torch.Tensor:
    """The tensor, or the first of several things."""
    found: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return found


@contextmanager
def one_by_one() -> Iterator[None]:
    """Meanwhile torch calls the modules of its own transformer layers, and does not compute around them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _copied(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[list[Any], TreeSpec]:
    """Arguments as leaves, tensors copied, each once: what is the same tensor stays the same."""
    leaves, spec = tree_flatten(arguments)
    copies = {id(leaf): leaf.detach().clone() for leaf in leaves if isinstance(leaf, torch.Tensor)}
    return [copies.get(id(leaf), leaf) for leaf in leaves], spec
