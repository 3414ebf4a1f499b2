"""What a recipe may say of how a student is quantized beyond calibration: learned rounding, training, a budget. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from edgekd.errors import UserError
from edgekd.pruning.budget import allowed_seconds
from edgekd.quant.precision import FLOAT, bits_alone
from edgekd.stage import uses
from edgekd.training.schedule import Training
from edgekd.units import parse_bytes

__all__ = ["NARROW", "WAYS", "Bits", "Budget", "Choice", "Qat", "Reconstruction", "width"]


@dataclass(frozen=True, kw_only=True)
class Qat(Training):
    """Quantization-aware training, from the calibrated network. `losses` as in distill, on modules too; the teacher guides.

    `teacher`: whom to learn from: the recipe's teacher, the float student itself, or both (the mean of their logits, which is
    the geometric mean of what they predict: Hinton et al. 2015, arXiv 1503.02531, section 2). `step_size = "learned"` trains
    the grids' steps with the weights (Esser et al. 2020, arXiv 1902.08153). `freeze`: the last part of the epochs, as a
    share, in which batch norm keeps its statistics (Krishnamoorthi 2018, arXiv 1806.08342, section 3.2.2), so that what is
    folded into the integer weights no longer moves.
    """

    losses: tuple[dict[str, Any], ...]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.1
    freeze: Annotated[float, Field(ge=0, le=1)] = 0.5
    step_size: Literal["calibrated", "learned"] = "calibrated"
    teacher: Literal["teacher", "student", "both"] = "teacher"

    def __post_init__(self) -> None:
        if not uses(self.losses, "quantize: qat.losses"):
            raise UserError(
                "quantize: qat.losses: there is none", hint='as in losses = [{ use = "kl", temperature = 2.0 }]'
            )


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Learn which way each weight is rounded, on the calibration samples, so that outputs stay those of the float network.

    `use = "adaround"`: one layer after another, steps and ranges as calibrated (Nagel et al. 2020, arXiv 2004.10568).
    `use = "block"`: one residual unit after another (Li et al. 2021, arXiv 2102.05426), rounding and steps together (Jeon et
    al. 2023, arXiv 2212.04780), a share `drop` of activations left in float at random (Wei et al. 2022, arXiv 2203.05740).
    """

    use: Literal["adaround", "block"]
    iterations: Annotated[int, Field(ge=1)] = 2000
    """For each layer or block."""
    batch: Annotated[int, Field(ge=1)] = 32
    lr: Annotated[float, Field(gt=0)] = 1e-2
    """Of the rounding, in units of the variable behind a sigmoid."""
    step_lr: Annotated[float, Field(ge=0)] = 1e-3
    """Of the steps, relative: how much of itself a step may change in an iteration. For "block"."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """For "block"."""
    regularization: Annotated[float, Field(ge=0)] = 0.01
    """Weight of what drives each rounding to one side."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the iterations before that begins."""


WAYS = {FLOAT: "float", "int8": "int8", "int4": "int4"}
"""Choices that engines have kernels for, beside 8 bits, and what a table of times calls them."""
NARROW = ("int8", "int4")
"""Of those, weights alone as integers, of linear layers."""

Choice = int | Literal["int8", "int4"]


def width(choice: Choice) -> int:
    """Bits of a weight.

    >>> width(8), width("int4")
    (8, 4)
    """
    return choice if isinstance(choice, int) else bits_alone(choice)


@dataclass(frozen=True)
class Budget:
    """`size`: "60 kB", of all layers that have weights: their weights packed, scales, zero points and biases.

    `latency`: "0.7x", of what the float student's fastest engine takes, or "1.2 ms", the median. One of them, or both.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    size: str = ""
    latency: str = ""

    def __post_init__(self) -> None:
        hint = 'bits = { budget = { size = "60 kB" } }, or { latency = "0.7x" } of the float student\'s'
        if not (self.size or self.latency):
            raise UserError("quantize: bits.budget names neither a size nor a latency", hint=hint)
        try:
            if self.size:
                parse_bytes(self.size)
        except ValueError as error:
            raise UserError(f"quantize: bits.budget.size: {error}", hint=hint) from None
        if self.latency:
            try:
                allowed_seconds(self.latency, 1.0, below=1.0)
            except UserError as error:
                raise UserError(f"quantize: bits.{error.message}", hint=hint) from None

    @property
    def bytes(self) -> int:
        """Infinitely many are written as 0."""
        return parse_bytes(self.size) if self.size else 0


@dataclass(frozen=True)
class Bits:
    """`choices`: the bits that a layer's weight may get, 2 to 8, or 32 for one that stays in float; "int8" and "int4" of its weight alone.

    These two are for linear layers, in groups of 32; other layers have what is left. Left out, [8, 4, 2]; under a latency [32, 8].
    Engines have kernels for 32, 8, "int8" and "int4".
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    budget: Budget
    choices: tuple[Choice, ...] | None = None

    def __post_init__(self) -> None:
        wide = [bits for bits in self.offered if isinstance(bits, int)]
        wrong = [bits for bits in wide if bits != FLOAT and not 2 <= bits <= 8]
        if wrong or not wide or len(set(self.offered)) < max(2, len(self.offered)):
            said = f"{wrong[0]} bits" if wrong else "there is nothing to choose from, or something twice"
            raise UserError(
                f"quantize: bits.choices: {said}", hint="two or more of 2 to 8, and 32 for float: [8, 4, 2]"
            )
        if self.budget.latency and (untimed := [bits for bits in wide if bits not in (8, FLOAT)]):
            message = (
                f"quantize: bits.choices: no engine has kernels for {untimed[0]} bits, so their time cannot be measured"
            )
            raise UserError(message, hint='[32, 8, "int4"] under a latency; a budget of size alone takes narrower ones')

    @property
    def offered(self) -> tuple[Choice, ...]:
        """The choices, as given or as usual."""
        if self.choices is not None:
            return self.choices
        return (FLOAT, 8) if self.budget.latency else (8, 4, 2)

    @property
    def timed(self) -> tuple[str, ...]:
        """What a layer's time is measured as beside 8 bits, under a latency."""
        return tuple(WAYS[choice] for choice in self.offered if choice in WAYS) if self.budget.latency else ()

    def of(self, least: int, linear: bool) -> list[Choice]:
        """The choices of a layer that gets `least` bits or more, widest first; `linear`: of one whose weight alone may be integers."""
        wide = sorted((b for b in self.offered if isinstance(b, int) and b >= least), reverse=True) or [least]
        return [*wide, *(choice for choice in NARROW if linear and choice in self.offered)]
