"""A calibration source: the inputs that a student looks at while its ranges are set. Kinds are files in `edgekd/sources/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from edgekd.data import Dataset
    from edgekd.student import Student
    from edgekd.target import Calibration


class Source(ABC):
    """A frozen dataclass without state."""

    @abstractmethod
    def inputs(self, student: Student, data: Callable[[], Dataset], recipe: Calibration) -> torch.Tensor:
        """`recipe.count` inputs [count, ...] of the student's signature; the same for the same `recipe.seed`."""
