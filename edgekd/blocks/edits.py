"""Replaying a replace edit: blocks of a freshly built network give way to modules of a few known kinds, in place.

    {"edit": "replace", "blocks": {"top.0": {"use": "separable", "inputs": 32, "outputs": 32, "stride": [1, 1], "relu": true},
                                   "layers.1.attention": {"use": "nothing", "outputs": 64, "call": "pair"}}}

`call` says how the block is called: with one tensor ("plain"), or with more, which the new one does not look at, giving a
tensor ("tensor") or a tensor and nothing else beside it ("pair", as an attention gives its weights). An edit is data that came
with an artefact: it is checked before anything is touched, and the modules that it can make are those below and no others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from edgekd.errors import UserError, nearest

HINT = "was the edit made for another factory, or with other arguments?"
Width = Annotated[int, Field(ge=1, le=1 << 16)]


class Kind(BaseModel):
    """What stands in a block's place, types checked without coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    call: Literal["plain", "tensor", "pair"] = "plain"

    @abstractmethod
    def body(self) -> nn.Module:
        """The module that computes it, from one tensor; weights drawn at random."""

    @final
    def module(self) -> nn.Module:
        """The module as the network calls it."""
        return self.body() if self.call == "plain" else Instead(self.body(), self.call == "pair")


@final
class Same(Kind):
    """What comes in goes out."""

    use: Literal["same"] = "same"

    def body(self) -> nn.Module:
        return nn.Identity()


@final
class Nothing(Kind):
    """Zeros [..., outputs]: what a sum around the block then adds."""

    use: Literal["nothing"] = "nothing"
    outputs: Width

    def body(self) -> nn.Module:
        return Zeros(self.outputs)


@final
class Conv(Kind):
    """One convolution with batch norm, and ReLU where `relu`."""

    use: Literal["conv"] = "conv"
    inputs: Width
    outputs: Width
    kernel: Literal[1, 3]
    stride: Annotated[list[Width], Field(min_length=2, max_length=2)]
    relu: bool

    def body(self) -> nn.Module:
        layers = _normed(self.inputs, self.outputs, self.kernel, self.stride)
        return nn.Sequential(*layers, *_relu(self.relu))


@final
class Separable(Kind):
    """A 3 × 3 depth-wise convolution, then a 1 × 1 one, each with batch norm; where `residual`, their sum with the input.

    Source: Howard et al. 2017, arXiv 1704.04861, section 3.1.
    """

    use: Literal["separable"] = "separable"
    inputs: Width
    outputs: Width
    stride: Annotated[list[Width], Field(min_length=2, max_length=2)]
    relu: bool
    residual: bool = False

    def body(self) -> nn.Module:
        depthwise = _normed(self.inputs, self.inputs, 3, self.stride, groups=self.inputs)
        layers = nn.Sequential(*depthwise, nn.ReLU(), *_normed(self.inputs, self.outputs, 1, [1, 1]))
        return nn.Sequential(Added(layers) if self.residual else layers, *_relu(self.relu))


@final
class Linear(Kind):
    """One linear layer for each position."""

    use: Literal["linear"] = "linear"
    inputs: Width
    outputs: Width

    def body(self) -> nn.Module:
        return nn.Linear(self.inputs, self.outputs)


@final
class Attention(Kind):
    """Self-attention of `heads` heads, each `head_width` wide."""

    use: Literal["attention"] = "attention"
    width: Width
    heads: Width
    head_width: Width

    def body(self) -> nn.Module:
        return SelfAttention(self.width, self.heads, self.head_width)


AnyKind = Annotated[Same | Nothing | Conv | Separable | Linear | Attention, Field(discriminator="use")]


class ReplaceEdit(BaseModel):
    """The edit as it stands in `edits.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    edit: Literal["replace"]
    blocks: Annotated[dict[str, AnyKind], Field(min_length=1)]


def replay(module: nn.Module, edit: Mapping[str, Any]) -> None:
    """Replace blocks of `module` in place as `edit` says; the new ones' weights are random, to be loaded or learned.

    Raises UserError, before anything is changed, for an edit of another form, and for a block that the network has not.
    """
    try:
        blocks = ReplaceEdit.model_validate(dict(edit)).blocks
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"a replace edit is malformed: {where}: {first['msg']}", hint=HINT) from None
    known = dict(module.named_modules())
    for name in blocks:
        if not name or name not in known:
            raise UserError(
                f'a replace edit names the module "{name}", which the student has not', hint=nearest(name, known)
            )
        if inner := next((other for other in blocks if other.startswith(f"{name}.")), None):
            raise UserError(f'a replace edit names "{name}" and, within it, "{inner}"', hint=HINT)
    for name, kind in blocks.items():
        around, _, own = name.rpartition(".")
        setattr(module.get_submodule(around), own, kind.module())


class Instead(nn.Module):
    """Stands where a block is called with more than one tensor, or gives more than one: `body` looks at the first."""

    batch_first = False
    """What nn.TransformerEncoderLayer asks of its attention before it would compute around it."""

    def __init__(self, body: nn.Module, pair: bool) -> None:
        super().__init__()
        self.body, self.pair = body, pair

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | tuple[torch.Tensor, None]:
        y: torch.Tensor = self.body(x)
        return (y, None) if self.pair else y


class Zeros(nn.Module):
    """x [..., inputs] → zeros [..., outputs], which do not depend on x: what would have made it need not be computed."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros([*x.shape[:-1], self.outputs], dtype=x.dtype, device=x.device)


class Added(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.body(x)
        return y


class SelfAttention(nn.Module):
    """x [batch, positions, width] → the same shape: softmax(Q Kᵀ / √d) V of each head, joined and projected.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_width**-0.5
        self.query, self.key, self.value = (nn.Linear(width, heads * head_width) for _ in range(3))
        self.out = nn.Linear(heads * head_width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.attended(x).transpose(1, 2).flatten(2))
        return found

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        """What each head gathers: [batch, heads, positions, head width]."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(2, 3) * self.scale).softmax(3)
        found: torch.Tensor = weights @ value
        return found


def _normed(inputs: int, outputs: int, kernel: int, stride: list[int], groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, (stride[0], stride[1]), kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _relu(there: bool) -> list[nn.Module]:
    return [nn.ReLU()] if there else []
