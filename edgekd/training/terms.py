"""The losses that a recipe names: built, given names, and judged as far as they can be without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch

from edgekd import registry
from edgekd.errors import UserError, nearest
from edgekd.stage import Use

WANTS = ("labels", "logits", "members", "features", "branch", "self", "masked", "head")
ALSO = ("labels", "targets", "progress", "samples", "own", "logits", "tail", "layer")


class Loss(Protocol):
    """The contract of a file in `edgekd/losses/`, told there."""

    wants: ClassVar[str]

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor: ...


def build(losses: Sequence[Use]) -> dict[str, tuple[tuple[float, float], Any]]:
    """{name: (weight at the beginning and at the end, loss)}; the second use of "kl" is called "kl 2".

    Raises UserError for a loss that does not exist, a field of it that is wrong, a file that breaks the contract, or two averages.
    """
    decays = sorted({use.decay for use in losses if use.of == "average"})
    if len(decays) > 1:
        message = (
            f"the losses name averages of the student with decays {', '.join(f'{one:g}' for one in decays)}: it has one"
        )
        raise UserError(message, hint="give them the same decay")
    terms: dict[str, tuple[tuple[float, float], Any]] = {}
    for name, use in named(losses).items():
        loss = registry.build("losses", use.use, use.fields)
        for field, value, known in (
            *[("wants", getattr(loss, "wants", None), WANTS)],
            *[("also", name, ALSO) for name in getattr(loss, "also", ())],
        ):
            if value not in known:
                message = f"{registry.file_of('losses', use.use)}: `{field}` is {value!r}"
                raise UserError(message, hint=nearest("", known))
        if use.of != "teacher" and loss.wants != "logits":
            message = f'the loss "{name}" wants {loss.wants}: it cannot learn from the student\'s {use.of}'
            raise UserError(message, hint='`from` is for losses on logits, as in { use = "kl", from = "peer" }')
        terms[name] = use.weight, loss
    return terms


def named(losses: Sequence[Use]) -> dict[str, Use]:
    """By name, in the recipe's order."""
    found: dict[str, Use] = {}
    for use in losses:
        count = sum(name.partition(" ")[0] == use.use for name in found)
        found[f"{use.use} {count + 1}" if count else use.use] = use
    return found


def peers_arguments(losses: Sequence[Use]) -> Mapping[str, Any]:
    """Of the student's factory, those that its peer is made with. Raises UserError where losses name two peers."""
    found = [dict(use.arguments) for use in losses if use.of == "peer"]
    if any(arguments != found[0] for arguments in found):
        raise UserError(f"losses learn from two peers, {found[0]} and {found[-1]}", hint="the same peer in all of them")
    return found[0] if found else {}


def check(losses: Sequence[Use], batch: int, *, traced: bool = False) -> None:
    """What can be said of a recipe's losses without a network. `traced`: whether the student will be a graph of operators.

    Raises UserError as `build` does, for a batch too small for a loss, for two peers, and for what needs more of a student than
    its graph.
    """
    peers_arguments(losses)
    for name, (_, loss) in build(losses).items():
        if batch < (least := getattr(loss, "least", 1)):
            message = f'the loss "{name}" compares the samples of a batch, {least} at least; batch is {batch}'
            raise UserError(message, hint="a larger batch, or a loss on single samples")
        if loss.wants == "head" and traced:
            message = f'the loss "{name}" divides a layer, and the grids of a quantized student are for whole ones'
            raise UserError(message, hint="use it in distill, before the student is quantized")
    for name, use in named(losses).items():
        if use.of != "teacher" and traced:
            message = f'the loss "{name}" learns from the student\'s {use.of}, which a quantized program has not'
            raise UserError(message, hint='teacher = "student" in qat learns from the float student')


def no_gradient(name: str) -> UserError:
    """The error for a loss that nothing of the student is trained by."""
    message = f'the loss "{name}" has no gradient: nothing that it reads of the student can be trained'
    return UserError(message, hint="name a later module, or train the one that it reads")
