"""Layer-wise distillation with layers matched anew at each step: which of the student's layers learns from which of the teacher's.

    L = Σ_{i ∈ T} MSE(W H_s^{m(i)}, H_t^i),   m(i) = argmin over the student's layers j that are there of MSE(W H_s^j, H_t^i)

H are what layers give, W is learned and begins as the identity. The teacher is the network as it was before pruning, so that its
layers and widths are the student's own. Source: Xia et al. 2022, arXiv 2204.00408, section 3.2; of its four teacher layers (3, 6, 9
and 12 of 12) the rule is taken: four, evenly spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile

import torch
from torch import nn
from torch.nn.functional import mse_loss

from edgekd.errors import UserError
from edgekd.pruning.branches import Branch

MOST = 4
"""Layers of the teacher that are learned from."""


def blocks(branches: Sequence[Branch]) -> dict[str, Branch]:
    """{module that is a whole layer: its feed-forward branch}, in order: the smallest module that holds that branch and an attention.

    Raises UserError where a layer is no module of its own.
    """
    found: dict[str, Branch] = {}
    attentions = [branch.last.name.split(".") for branch in branches if branch.attention]
    for branch in branches:
        if branch.attention:
            continue
        own = branch.last.name.split(".")
        shared = max((_shared(own, other) for other in attentions), key=len, default=[])
        name = ".".join(shared)
        if not name or name in found:
            message = f'layers cannot be matched: "{branch.last.name}" and an attention share no module of their own'
            raise UserError(message, hint="one module for each layer of the student, or layerwise = 0")
        found[name] = branch
    if not found:
        hint = "layerwise = 0, or a student with layers of attention and feed-forward in a residual stream"
        raise UserError("layers cannot be matched: the student has none that could go", hint=hint)
    return found


def _shared(one: list[str], other: list[str]) -> list[str]:
    """The names that both begin with."""
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def chosen(count: int) -> list[int]:
    """Which of the teacher's `count` layers are learned from.

    >>> chosen(12), chosen(6), chosen(2)
    ([2, 5, 8, 11], [1, 2, 4, 5], [0, 1])
    """
    return sorted({-(-count * part // MOST) - 1 for part in range(1, MOST + 1)})


def match(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], there: Sequence[bool]) -> list[int]:
    """m(i) for each of the teacher's layers: the nearest of the student's that are `there`, or of all where none is."""
    able = [j for j, is_there in enumerate(there) if is_there] or list(range(len(student)))
    with torch.no_grad():
        return [min(able, key=lambda j: float(mse_loss(student[j], theirs))) for theirs in teacher]


def layerwise(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], there: Sequence[bool]) -> torch.Tensor:
    """L, for what W makes of the student's layers, and the teacher's, all [batch, tokens, width]."""
    pairs = zip(match(student, teacher, there), teacher, strict=True)
    return torch.stack([mse_loss(student[j], theirs) for j, theirs in pairs]).sum()


@contextmanager
def given(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While the block runs, what each module gave last: a tensor, or the first of several things."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, output: object) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, torch.Tensor):
            raise UserError(f'layers cannot be matched: "{name}" gives a {type(first).__name__}', hint="layerwise = 0")
        found[name] = first

    hooks = [network.get_submodule(n).register_forward_hook(lambda _m, _i, o, n=n: keep(n, o)) for n in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
