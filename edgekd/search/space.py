"""What a student search may choose from: values for arguments of the student's factory, and students made with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from edgekd.errors import UserError, nearest
from edgekd.pruning.budget import allowed_seconds

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekd.latency.table import Kind, Measured
    from edgekd.search.evolution import Candidate
    from edgekd.search.similarity import Seen

Arguments = Mapping[str, Any]
"""Arguments of the student's factory, by name."""

Space = dict[str, tuple[Any, ...]]
"""The values that each argument may take."""

RANGE = ("low", "high", "step")
HINT = "width = [8, 16, 24], or depth = { low = 1, high = 4 }"


@dataclass(frozen=True)
class SearchBudget:
    """`latency`: "0.5x", of what the fastest engine of the recipe's own student takes, or "1.2 ms", the median."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    latency: str

    def __post_init__(self) -> None:
        self.seconds(1.0)

    def seconds(self, whole: float) -> float:
        """Seconds that are allowed, where the recipe's student takes `whole`. Raises UserError for what is no such budget."""
        return allowed_seconds(self.latency, whole)


@dataclass(frozen=True)
class Variants:
    """What a search is given: students of the recipe's factory with other arguments, and what their engines take.

    `own`: the arguments that the recipe gives or the factory's signature has. `kinds`: the engines that count.
    """

    own: Arguments
    kinds: tuple[Kind, ...]
    make: Callable[[Arguments, int], nn.Module]
    """(arguments over the recipe's, number of the drawing) → a network with random weights, the same each time."""
    race: Callable[[Sequence[Arguments], str], tuple[list[dict[Kind, Measured]], dict[int, str]]]
    """(arguments, the first being `own`; label) → for each what its engines take, raced with the first, and why some have none."""
    score: Callable[[Sequence[dict[str, Any]], Seen, torch.Tensor, torch.Tensor], list[Candidate]] | None = None
    """(arguments; the teacher's view of inputs, these inputs, their labels) → candidates with their scores, by the machines of a
    cluster; none: they are scored in this process."""


def space_of(arguments: Mapping[str, Any]) -> Space:
    """The values that a recipe's `arguments` table allows. Raises UserError for one that is no list of values and no range.

    >>> space_of({"width": [8, 16], "depth": {"low": 1, "high": 5, "step": 2}})
    {'width': (8, 16), 'depth': (1, 3, 5)}
    """
    found = {name: _values(f"arguments.{name}", given) for name, given in arguments.items()}
    if math.prod(len(values) for values in found.values()) < 2:
        raise UserError("arguments: leave nothing to choose", hint=HINT)
    return found


def _values(where: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, Mapping):
        return _between(where, given)
    if not isinstance(given, list | tuple) or not given:
        raise UserError(f"{where}: {given!r} is no list of values and no range", hint=HINT)
    if any(value in given[:index] for index, value in enumerate(given)):
        raise UserError(f"{where}: {given!r} names a value twice")
    return tuple(given)


def _between(where: str, given: Mapping[str, Any]) -> tuple[int, ...]:
    for key in given:
        if key not in RANGE:
            raise UserError(f'{where}: unknown key "{key}"', hint=nearest(key, RANGE))
    low, high, step = given.get("low"), given.get("high"), given.get("step", 1)
    if not all(type(value) is int for value in (low, high, step)):
        raise UserError(f"{where}: {dict(given)!r} is no range of whole numbers", hint=HINT)
    assert isinstance(low, int) and isinstance(high, int)
    if low > high or step < 1:
        raise UserError(f"{where}: from {low} to {high} by {step} there is no value", hint=HINT)
    return tuple(range(low, high + 1, step))


def check_own(space: Space, own: Arguments) -> None:
    """The recipe's own student is the first of the search. Raises UserError if it is not among its values."""
    for name, values in space.items():
        if name not in own:
            raise UserError(f"arguments.{name}: the factory has no value of its own", hint=f"[student] {name} = …")
        if own[name] not in values:
            shown = ", ".join(map(str, values))
            message = f"arguments.{name}: the recipe's own student, {name} = {own[name]}, is outside its range: {shown}"
            raise UserError(message, hint=f"add {own[name]}, or set [student] {name} to one of them")


def check_given(space: Mapping[str, tuple[Any, ...]], given: Arguments, known: Sequence[str] | None, spec: str) -> None:
    """What a recipe alone can tell: the factory `spec`, whose arguments are `known`, has them, and those `given` are in range.

    Raises UserError for one that is not.
    """
    for name, values in space.items():
        if known is not None and name not in known:
            raise UserError(f'arguments.{name}: "{spec}" has no such argument', hint=nearest(name, known))
        if name in given:
            check_own({name: values}, given)


def said(arguments: Arguments) -> str:
    """In words, and no two alike.

    >>> said({"width": 8, "kind": "wide"})
    "width = 8, kind = 'wide'"
    """
    return ", ".join(f"{name} = {value!r}" for name, value in arguments.items())
