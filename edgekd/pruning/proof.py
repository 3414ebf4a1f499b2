"""The proof that a part of a network can go: without it, the network computes what it computes with that part silenced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edgekd.pruning.edits import replay

TOLERANCE = 1e-4  # of the largest output: what float32 sums in another order may differ by


@torch.no_grad()
def disproof(
    network: nn.Module, inputs: torch.Tensor, cut: Mapping[str, Any], silence: Callable[[nn.Module], None], what: str
) -> str:
    """Why the edit's `cut` is not what `silence` does to a copy of the network, or "" where both compute the same.

    `what` goes, in the words of the reason: "its channels".
    """
    silenced, removed = copy.deepcopy(network).eval(), copy.deepcopy(network).eval()
    silence(silenced)
    expected = silenced(inputs)
    try:
        replay(removed, {"edit": "prune", **cut})
        found = removed(inputs)
    except Exception as error:
        return f"the network does not run without some of {what}: {type(error).__name__}: {error}"
    if found.shape != expected.shape:
        return f"{what} are the network's outputs"
    if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():  # NaN is no proof either
        return f"an operation mixes {what}, so that removing one changes the others"
    return ""
