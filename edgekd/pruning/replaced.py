"""What pruning puts in the place of a user's modules: an attention that can be narrowed, the nothing that is left of a branch
that was taken out, and a normalisation that sees some of its channels only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import dropout, scaled_dot_product_attention, softmax
from torch.nn.utils import skip_init

from edgekd.errors import UserError


class Attention(nn.Module):
    """`nn.MultiheadAttention` with its four projections as layers of their own, so that heads and inputs can be narrowed.

    The same call, the same outputs: (what is attended to, the weights or None). `in_proj_bias` is None, so that
    `nn.TransformerEncoderLayer` does not go round this module on its fast path.
    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2.
    """

    in_proj_bias: None = None
    _qkv_same_embed_dim = True

    def __init__(self, before: nn.MultiheadAttention) -> None:
        """Weights are copied. Raises ValueError for a form that has no such projections."""
        super().__init__()
        if before.bias_k is not None or before.add_zero_attn:
            raise ValueError("add_bias_kv and add_zero_attn are not supported")
        self.num_heads, self.head_dim = before.num_heads, before.head_dim
        self.batch_first, self.dropout = before.batch_first, before.dropout
        if before.in_proj_weight is not None:
            weights = list(before.in_proj_weight.chunk(3))
        else:
            weights = [before.q_proj_weight, before.k_proj_weight, before.v_proj_weight]
        biases = [None] * 3 if before.in_proj_bias is None else list(before.in_proj_bias.chunk(3))
        (self.query, self.key, self.value) = map(_linear, weights, biases)
        self.out_proj = _linear(before.out_proj.weight, before.out_proj.bias)
        self.train(before.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[batch, tokens, width], or [tokens, batch, width] without `batch_first`, as `nn.MultiheadAttention` takes them.

        `is_causal` is a hint there and needs `attn_mask`, which is what counts here. Raises UserError for one sample alone.
        """
        if query.dim() != 3:
            message = f"attention over {list(query.shape)}: pruning needs a batch, [batch, tokens, width]"
            raise UserError(message, hint="add the batch's dimension in the student's forward")
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = self._added(attn_mask, key_padding_mask, q)
        share = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / self.head_dim**0.5
            weights = dropout(softmax(scores if mask is None else scores + mask, -1), share)
            found = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            found = scaled_dot_product_attention(q, k, v, mask, share)
        found = self.out_proj(found.transpose(1, 2).flatten(2))
        return found if self.batch_first else found.transpose(0, 1), weights

    def _added(
        self, attn_mask: torch.Tensor | None, padding: torch.Tensor | None, like: torch.Tensor
    ) -> torch.Tensor | None:
        """Both masks as what is added to the scores [batch, heads, tokens, tokens]; true, of a Boolean one, is left out."""
        masks = []
        if attn_mask is not None:
            masks.append(attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (-1, self.num_heads)))
        if padding is not None:
            masks.append(padding[:, None, None, :])
        floats = [
            torch.zeros_like(m, dtype=like.dtype).masked_fill(m, -torch.inf) if m.dtype == torch.bool else m
            for m in masks
        ]
        return sum(floats[1:], floats[0]) if floats else None


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """A layer of copies of these weights [out, in] and biases [out]; nothing is drawn from a random generator."""
    layer: nn.Linear = skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer


class Nothing(nn.Module):
    """Takes what a part of a network took and gives zero, a scalar that a residual sum takes as it takes any tensor.

    `outputs`: 0 for a part that gave a tensor, else how many things it gave; those behind the first are None.
    """

    in_proj_bias: None = None
    _qkv_same_embed_dim = True

    def __init__(self, outputs: int = 0, batch_first: bool = False) -> None:
        super().__init__()
        self.outputs, self.batch_first = outputs, batch_first

    def forward(self, *given: object, **named: object) -> object:
        tensors = [x for x in (*given, *named.values()) if isinstance(x, torch.Tensor)]
        zero = next(x for x in tensors if x.is_floating_point()).new_zeros(())
        return (zero, *[None] * (self.outputs - 1)) if self.outputs else zero


class KeptNorm(nn.Module):
    """A layer norm, or root mean square norm, of some channels only: what it would be if it were narrowed to them.

    `kept()` → [channels], 1 for those that count, 0 for the others, which come out as the bias.
    Sources: Ba et al. 2016, arXiv 1607.06450, equation 4; Zhang, Sennrich 2019, arXiv 1910.07467, equation 4.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, before: nn.LayerNorm | nn.RMSNorm, kept: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.register_parameter("weight", before.weight)
        self.register_parameter("bias", getattr(before, "bias", None))
        self.eps, self.centred, self.kept = before.eps, isinstance(before, nn.LayerNorm), kept

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.kept().to(x.dtype)
        count = kept.sum().clamp_min(1.0)
        mean = (x * kept).sum(-1, keepdim=True) / count if self.centred else 0.0
        moved = (x - mean) * kept
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        x = moved * torch.rsqrt(moved.square().sum(-1, keepdim=True) / count + eps)
        x = x if self.weight is None else x * self.weight
        return x if self.bias is None else x + self.bias


def put(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where the module called `name` was."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, layer)
