"""A calibration source: the inputs that a student looks at while its ranges are set. Kinds are files in `edgekd/sources/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgekd.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekd.data import Dataset
    from edgekd.progress import Progress
    from edgekd.student import Student
    from edgekd.target import Calibration
    from edgekd.teacher import Teacher


@dataclass(frozen=True)
class Given:
    """What a source may ask for. A synthetic source never asks for `data`: that is what makes it zero-shot."""

    data: Callable[[], Dataset]
    teacher: Callable[[], Teacher] | None
    """None where the recipe has no teacher."""
    progress: Progress
    work: Path
    """A folder that survives a kill, for the batches that are finished; removed when the set is."""


class Source(ABC):
    """A frozen dataclass whose fields are what `[options]` of a calibration recipe may set."""

    synthetic: ClassVar[bool] = False
    """Whether the inputs are made up, not taken from data."""
    reads_path: ClassVar[bool] = False
    """Whether the recipe's `path` says where the inputs are."""

    def asks_teacher(self) -> bool:
        """Whether these options need a teacher with gradients."""
        return False

    def check(self, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
        """What can be known before any work; `network()` makes a fresh student. Raises UserError."""

    @abstractmethod
    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        """Inputs [count, ...] of the student's signature; the same for the same `recipe.seed`.

        Fewer than `recipe.count` only where there are fewer to take.
        """


def checked(source: Source, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
    """Check `path` against what the source reads, then whatever else it can know. Raises UserError."""
    if source.reads_path and not recipe.path:
        raise UserError(
            f'calibration "{recipe.name}": source "{recipe.source}" needs a `path`', hint='path = "night-images"'
        )
    if recipe.path and not source.reads_path:
        raise UserError(
            f'calibration "{recipe.name}": source "{recipe.source}" reads no `path`',
            hint='remove it, or use source = "images" or "npz"',
        )
    source.check(recipe, network)
