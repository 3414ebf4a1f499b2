"""Reading an attention of whatever code as heads of a known form, so that some of them can be left out.

How a module lays out its heads cannot be told from its weights. So each usual layout is put to the proof: the attention of
`edgekd.blocks.edits` with those weights must compute what the module computes; where none does, its heads are not touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from edgekd.blocks.calls import Record
from edgekd.blocks.edits import SelfAttention

HEADS = ("num_heads", "heads", "n_heads", "num_attention_heads", "nhead", "n_head")
"""What modules call their number of heads."""
TOLERANCE = 1e-4  # of the largest output: what float32 sums in another order may differ by
FEW = slice(0, 8)  # samples that the proof looks at

Projection = tuple[torch.Tensor, torch.Tensor]
"""Weight [out, in] and bias [out]."""


@torch.no_grad()
def read(module: nn.Module, calls: Record) -> SelfAttention | None:
    """The attention with the weights of `module` that computes the same on the samples of `calls`; None where none is found."""
    heads = next((n for name in HEADS if isinstance(n := getattr(module, name, None), int) and n > 0), 0)
    if not heads:
        return None
    expected = calls.output[FEW]
    for query, key, value, out in _layouts(module):
        inner, width = query[0].shape
        if inner % heads or width != calls.x.shape[-1] or out[0].shape != (width, inner):
            return None
        found = SelfAttention(width, heads, inner // heads).eval()
        for layer, (weight, bias) in zip(
            (found.query, found.key, found.value, found.out), (query, key, value, out), strict=True
        ):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        if float((found(calls.x[FEW]) - expected).abs().max()) <= TOLERANCE * float(expected.abs().max()):
            return found
    return None


@torch.no_grad()
def fewer(attention: SelfAttention, x: torch.Tensor, count: int) -> SelfAttention:
    """The same with its `count` heads that give most: by the mean of ‖W_out,h · head_h‖² over x [n, positions, width].

    Those that stay keep their weights; what the others gave on average becomes part of the bias.
    """
    gathered = attention.attended(x)  # [n, heads, positions, head width]
    wide = gathered.shape[3]
    given = torch.einsum("nhpd,ohd->nhpo", gathered, attention.out.weight.unflatten(1, (attention.heads, wide)))
    order = given.square().sum(3).mean((0, 2)).argsort(descending=True, stable=True).tolist()
    kept, gone = sorted(order[:count]), sorted(order[count:])
    found = SelfAttention(attention.query.in_features, count, wide)
    rows = torch.cat([torch.arange(head * wide, (head + 1) * wide) for head in kept])
    for name in ("query", "key", "value"):
        ours, theirs = getattr(found, name), getattr(attention, name)
        ours.weight.copy_(theirs.weight[rows])
        ours.bias.copy_(theirs.bias[rows])
    found.out.weight.copy_(attention.out.weight[:, rows])
    found.out.bias.copy_(attention.out.bias + given[:, gone].sum(1).mean((0, 1)))
    return found


def _layouts(module: nn.Module) -> Iterator[tuple[Projection, Projection, Projection, Projection]]:
    """Query, key, value and output projections, as the usual layouts have them."""
    if isinstance(module, nn.MultiheadAttention):
        if module.in_proj_weight is not None and module.bias_k is None:
            joined = _projection(module.in_proj_weight, module.in_proj_bias)
            yield *_thirds(joined), _projection(module.out_proj.weight, module.out_proj.bias)
        return
    linear = [_projection(m.weight, m.bias) for m in module.modules() if isinstance(m, nn.Linear)]
    if len(linear) == 2:
        joined, out = linear
        if joined[0].shape[0] == 3 * out[0].shape[1]:
            for query, key, value in itertools.permutations(_thirds(joined)):
                yield query, key, value, out
    if len(linear) == 4:
        *three, out = linear
        if {weight.shape[0] for weight, _ in three} == {out[0].shape[1]}:
            for query, key, value in itertools.permutations(three):
                yield query, key, value, out


def _thirds(joined: Projection) -> tuple[Projection, Projection, Projection]:
    weights, biases = joined[0].chunk(3), joined[1].chunk(3)
    return (weights[0], biases[0]), (weights[1], biases[1]), (weights[2], biases[2])


def _projection(weight: torch.Tensor, bias: torch.Tensor | None) -> Projection:
    return weight, torch.zeros(len(weight)) if bias is None else bias
