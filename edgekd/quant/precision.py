"""How many bits each tensor gets. Imports neither torch nor a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FLOAT", "GROUP", "KERNELS", "Precision", "bits_alone", "computes_in", "weight_only_name", "why_simulated"]

FLOAT = 32
"""The bits of a layer that stays in float."""
GROUP = 32
"""How many weights share a scale where single layers have weights alone in few bits."""


@dataclass(frozen=True)
class Precision:
    """Bits of weights, 2 to 8, and of activations, 2 to 16; of the first and the last layer at least `first_last`.

    A first layer is one that no weighted layer comes before, a last layer one that none comes after; of both, the weights and
    the activations that they read are meant (Zhou et al. 2016, arXiv 1606.06160, section 2.6, left both alone; Li et al.
    2021, arXiv 2102.05426, section 4, give them 8 bits). An activation that is only added or pooled has 8 bits at least.
    `layers` sets the bits of single layers' weights by name, before all else; `FLOAT` leaves a layer in float. `grouped`: linear
    layers in float whose weights alone have so many bits, in groups of `GROUP`, by name. `embeddings`: the bits of embedding tables,
    8 or `FLOAT`; a student of which no layer is quantized keeps them in float. `stored`: the steps of all weights are state of
    their own. Otherwise those of an 8-bit weight follow from it, max |w| / 127; narrower ones are always stored.
    """

    weights: int = 8
    activations: int = 8
    first_last: int = 8
    layers: Mapping[str, int] = field(default_factory=dict)
    grouped: Mapping[str, int] = field(default_factory=dict)
    embeddings: int = 8
    stored: bool = False

    @property
    def simulated(self) -> bool:
        """Whether no runtime here has kernels for it: int8 by int8 has them, and a layer may stay in float."""
        widths = {self.weights, max(self.weights, self.first_last), *self.layers.values()} - {FLOAT}
        return widths | {self.activations, max(self.activations, self.first_last)} != {8}

    @property
    def name(self) -> str:
        """What a report calls it.

        >>> Precision().name, Precision(4, 4).name, Precision(activations=16).name, Precision(4, 8, layers={"a": 2}).name
        ('int8', 'W4A4', 'W8A16', 'W2-4A8')
        """
        if not self.simulated:
            return "int8"
        widths = sorted({self.weights, *self.layers.values()} - {FLOAT})
        span = f"{widths[0]}-{widths[-1]}" if len(widths) > 1 else f"{widths[0]}"
        return f"W{span}A{self.activations}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"layers": dict(self.layers), "grouped": dict(self.grouped)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Precision:
        """Of a student that names no bits of its tables, from before they had any, these stay in float."""
        return cls(**{"embeddings": FLOAT, **values})


def weight_only_name(bits: int) -> str:
    """What a program is called whose weights alone have so many bits; runtimes have kernels for it.

    >>> weight_only_name(4)
    'W4A32'
    """
    return f"W{bits}A32"


KERNELS = ("float32", "int8", weight_only_name(4), weight_only_name(8))
"""Precisions that some runtime here has kernels for; all others are simulated."""


def bits_alone(way: str) -> int:
    """How many bits a weight has that alone is an integer, of what a recipe calls it.

    >>> bits_alone("int4"), bits_alone("int8")
    (4, 8)
    """
    return int(way.removeprefix("int"))


def computes_in(precision: str) -> str:
    """The precision that a program multiplies in, which is what a target lists.

    >>> computes_in("W4A32"), computes_in("int8")
    ('float32', 'int8')
    """
    return "float32" if precision.endswith("A32") else precision


def why_simulated(precision: str) -> str:
    """What a report says of a version that no engine is made of.

    >>> why_simulated("W4A4")
    'simulated in torch: no runtime here has kernels for W4A4'
    """
    if precision == "W8A16":  # looked at in the graphs that they optimise to, and in LiteRT's list of operators
        lacking = "ONNX Runtime and OpenVINO compute it in float, and LiteRT's converter from torch writes none of its kernels for it"
    else:
        lacking = f"no runtime here has kernels for {precision}"
    return f"simulated in torch: {lacking}"
