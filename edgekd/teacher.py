"""The teacher: what a student learns from. Kinds of teachers are files in `edgekd/teachers/`."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from edgekd.errors import UserError


class Teacher(ABC):
    """Always in eval mode, never trained.

    `made_from` says what of the recipe's [teacher] section is its first field: "network", "function", "file", "teachers" or
    "folder" (edgekd/teachers/__init__.py). `kept`: of one made from a file, what that is called in the store. `chunk`: so
    many samples at once suit it.
    """

    made_from: ClassVar[str] = "network"
    kept: ClassVar[str] = ""
    chunk: ClassVar[int] = 256

    @abstractmethod
    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs [batch, ...] -> logits [batch, classes], without gradients."""

    def each(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of each of several teachers [batch, members, classes]; any other kind is its only member."""
        return self.outputs(inputs)[:, None]

    def features(self, inputs: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits, and the outputs of the modules called `names`. Raises UserError if this kind of teacher has none."""
        raise self._black_box()

    def shapes(self, inputs: torch.Tensor, named: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
        """{module: the shape of what it gives}, as `edgekd.training.features.shapes`. Raises UserError if this kind has none."""
        raise self._black_box()

    def partial(self, inputs: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The outputs of the modules called `names` alone; what is behind the last of them need not be computed.

        Raises UserError if this kind has none.
        """
        return self.features(inputs, names)[1]

    def onwards(self, inputs: torch.Tensor, name: str, features: torch.Tensor) -> torch.Tensor:
        """Logits where the module called `name` gives `features`, to which gradients flow. Raises UserError if this kind has none."""
        raise self._black_box()

    def embeddings(self, inputs: torch.Tensor) -> torch.Tensor:
        """Vectors [tokens, width] of the module that reads `inputs` [batch, length]. Raises UserError if there is none."""
        raise self._black_box()

    @classmethod
    def keep(cls, source: Path, path: Path) -> None:
        """Write the file that it is made from as `path`, whole. Raises UserError if it cannot be read."""
        shutil.copyfile(source, path)

    def _black_box(self) -> UserError:
        from edgekd.errors import UserError

        message = f"a {type(self).__name__} gives logits only, not features"
        return UserError(message, hint="use a torch teacher, or a loss on logits")
