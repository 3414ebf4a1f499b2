"""What a stage of a recipe is, and what it is given when it runs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgekd import registry
from edgekd.errors import UserError
from edgekd.pipeline.step import TORCH

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from edgekd.blocks.budget import Timed
    from edgekd.data import Dataset
    from edgekd.latency.layer_times import Times
    from edgekd.latency.table import Kind, Pricing
    from edgekd.progress import Progress
    from edgekd.search.space import Variants
    from edgekd.store import Entry
    from edgekd.student import Edit, Student
    from edgekd.teacher import Teacher
    from edgekd.training.world import World


OF = ("teacher", "average", "peer")


@dataclass(frozen=True)
class Use:
    """A registry file named in a recipe, with its fields: `{ use = "kl", temperature = 4.0, weight = 0.5 }`.

    `weight`: at the beginning and at the end of the training, linear between; a recipe that gives one number gives both.
    `of`: whom a loss on logits compares the student with: "teacher", "average" (the student's own over the steps, with its
    `decay`) or "peer", made with other `arguments` of the student's factory where there are any (edgekd/training/companions.py); in
    a recipe `from = "peer"`, `from = { average = 0.99 }`, `from = { peer = { width = 48 } }`.
    """

    use: str
    weight: tuple[float, float]
    fields: Mapping[str, Any]
    of: str = "teacher"
    decay: float = 0.999
    arguments: Mapping[str, Any] = field(default_factory=dict)


def uses(tables: Iterable[Mapping[str, Any]], where: str) -> tuple[Use, ...]:
    """Read a list of `{ use = …, weight = … }` tables; `weight` is a number above zero, or two (`[1.0, 0.0]`), not both zero.

    Raises UserError for one without `use`, or with another weight.
    """
    found = []
    for table in tables:
        rest = dict(table)
        name, weight, of = rest.pop("use", None), rest.pop("weight", 1.0), rest.pop("from", "teacher")
        if not isinstance(name, str):
            raise UserError(f"{where}: an entry has no `use`")
        ends = list(weight) if isinstance(weight, list | tuple) else [weight, weight]
        numbers = all(isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < math.inf for w in ends)
        if len(ends) != 2 or not numbers or not max(ends) > 0:
            hint = "a number above zero, or two, at the beginning and at the end: [1.0, 0.0]"
            raise UserError(f'{where}: weight of "{name}" is {weight!r}', hint=hint)
        found.append(Use(name, (float(ends[0]), float(ends[1])), rest, *_of(of, f'{where}: from of "{name}"')))
    return tuple(found)


def _of(given: Any, where: str) -> tuple[str, float, Mapping[str, Any]]:
    """(whom to learn from, the decay of an average, the arguments of a peer)."""
    if isinstance(given, Mapping) and list(given) == ["average"]:
        decay = given["average"]
        if isinstance(decay, int | float) and not isinstance(decay, bool) and 0 <= decay < 1:
            return "average", float(decay), {}
    elif isinstance(given, Mapping) and list(given) == ["peer"]:
        if isinstance(given["peer"], Mapping) and given["peer"]:
            return "peer", Use.decay, dict(given["peer"])
    elif given in OF:
        return str(given), Use.decay, {}
    hint = '"teacher", "average", "peer", { average = 0.99 } (from 0 to below 1), or { peer = { width = 48 } }'
    raise UserError(f"{where} is {given!r}", hint=hint)


def taught(losses: Iterable[Use]) -> bool:
    """Whether some loss wants a teacher, read from its file without importing it."""

    def asks(use: Use) -> bool:
        also = registry.constant("losses", use.use, "also") or ()
        wants = registry.constant("losses", use.use, "wants")
        return (use.of == "teacher" and wants not in ("labels", "self")) or "logits" in also

    return any(asks(use) for use in losses)


def _alone() -> World:
    from edgekd.training.world import World

    return World.alone()


def _none_varied() -> Variants:
    raise UserError("this stage names no arguments of the student's factory", hint="arguments = { width = [8, 16] }")


def _nothing_raced(_: Sequence[Sequence[Edit]], label: str) -> tuple[list[dict[Kind, Timed]], dict[int, str]]:
    raise UserError(f"{label}: this stage does not say that it races engines")


def _nothing_kept(label: str, _: Any, __: Callable[[Path], dict[str, Any] | None]) -> Entry:
    raise UserError(f"{label}: there is no store to keep it in")


def _untimed() -> Times:
    raise UserError("this stage names no latency that its layers share", hint='budget = { latency = "0.7x" }')


@dataclass(frozen=True)
class Context:
    """What a stage is given when it runs. It may call `data`, `teacher` and `calibration` only if it says that it reads them."""

    factory: Callable[..., nn.Module]
    """A fresh student, as the user's factory makes it, unpruned, its random weights from the seed given first, else from the
    recipe's; with other arguments of the factory by keyword."""
    data: Callable[[], Dataset]
    metric: Callable[[np.ndarray, np.ndarray], float]
    """(outputs [n, classes], targets [n]) -> score, higher is better."""
    teacher: Callable[[], Teacher]
    teacher_logits: Callable[..., torch.Tensor]
    """(name of the inputs, how to make them) -> the teacher's logits [n, classes], computed once and kept in the store; with
    `each=True` those of each of several teachers, [n, members, classes].
    The name, with the teacher and the data, is the key: "train view 3 seed 0"."""
    calibration: Callable[[], list[torch.Tensor]]
    """Batches of inputs, as the calibration recipe says."""
    pricing: Callable[[], Pricing]
    """The latency table of the student and a way to measure a plan, for a stage that is `priced`."""
    observer: str
    """The observer that the calibration recipe names."""
    progress: Progress
    work: Path
    """A folder that survives a kill, for checkpoints; removed when the stage is finished."""
    seed: int
    channel_multiple: int
    """The target's: numbers of kept channels are multiples of it."""
    grid: str
    """Name of the number grid that the target's backends have fast kernels for: "affine", "symmetric"."""
    arrays: Callable[[], list[np.ndarray]] = list
    """Of a student that is an ONNX file: what to calibrate on, [n, ...] for each of its inputs."""
    world: Callable[[], World] = _alone
    """The processes that train together. All of them run the stage; what the first one alone should do it asks of this."""
    accumulate: int = 1
    """In so many parts a batch is computed, one after another."""
    fused: bool = False
    """Whether the optimizer takes its steps in one kernel."""
    variants: Callable[[], Variants] = _none_varied
    """Students of other arguments and what their engines take, for a stage whose arguments are `varied`."""
    race: Callable[[Sequence[Sequence[Edit]], str], tuple[list[dict[Kind, Timed]], dict[int, str]]] = _nothing_raced
    """(edits of the student, those of the first making what the others are compared with; label) -> what the engines of each take,
    measured in one race and kept in the store, and why some have none; for a stage that `races`."""
    kept: Callable[[str, Any, Callable[[Path], dict[str, Any] | None]], Entry] = _nothing_kept
    """(label, plain values that it depends on besides student and data, how to make it in a folder) -> what is in the store,
    made once."""
    times: Callable[[], Times] = _untimed
    """What each layer takes in float more than quantized, for a stage that is `timed`."""


class Stage(ABC):
    """A frozen dataclass whose fields are its configuration. It takes one kind of student and gives one.

    takes, gives: "student" (float) or "quantized"; of an ONNX file "file" or "quantized file".
    reads: which of {"teacher", "data", "calibration", "target"} its result depends on, besides its fields.
    precision: of what it gives: "float32", "int8", or one that can only be simulated, such as "W4A4".
    packages: distributions whose versions its result depends on.
    """

    takes: ClassVar[str] = "student"
    gives: ClassVar[str] = "student"
    reads: ClassVar[frozenset[str]] = frozenset()
    precision: ClassVar[str] = "float32"
    packages: ClassVar[tuple[str, ...]] = TORCH
    calibration: str = ""

    @property
    def priced(self) -> bool:
        """Whether it needs the latency of the student at other widths."""
        return False

    @property
    def weighed(self) -> bool:
        """Whether it needs the peak memory of those, too."""
        return False

    @property
    def timed(self) -> tuple[str, ...]:
        """What each layer may be beside quantized, of "float", "int8" and "int4" (its weight alone), where that is to be timed."""
        return ()

    @property
    def varied(self) -> Mapping[str, tuple[Any, ...]]:
        """Arguments of the student's factory that it tries other values of, with these values."""
        return {}

    @property
    def races(self) -> bool:
        """Whether it races engines of students that it makes of the one before it, so that its result is of this machine."""
        return False

    @property
    def controlled(self) -> bool:
        """Whether it may leave layers in float, whose cost is then measured."""
        return False

    def names(self) -> list[tuple[str, str, str]]:
        """(field, registry, name) of each registry file that the fields name. Imports none of them."""
        return []

    def objective(self) -> tuple[str, tuple[Use, ...]]:
        """(field, the losses that it trains with), for a stage that trains."""
        return "", ()

    def check(self) -> None:
        """Build what the fields name, so that a wrong value is said before any work. Raises UserError. May import torch."""

    @abstractmethod
    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Write the new student into the folder `out`; what is returned (losses, counts) is kept beside it as JSON."""
