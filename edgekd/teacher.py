"""The teacher: what a student learns from. Kinds of teachers are files in `edgekd/teachers/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Teacher(ABC):
    """Always in eval mode, never trained."""

    @abstractmethod
    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs [batch, ...] -> logits [batch, classes], without gradients."""

    def features(self, inputs: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits, and the outputs of the modules called `names`. Raises UserError if this kind of teacher has none."""
        from edgekd.errors import UserError

        raise UserError(
            f"a {type(self).__name__} gives logits only, not features", hint="use a torch teacher, or a loss on logits"
        )
