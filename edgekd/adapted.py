"""A teacher with other classes, or for images of another size, as one that its student can be compared with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch.nn.functional import interpolate

from edgekd.errors import UserError
from edgekd.teacher import Teacher

Classes = tuple[int | tuple[int, ...], ...]


@final
@dataclass(frozen=True, eq=False)
class Adapted(Teacher):
    """`classes`: for each class of the student, the teacher's number of it, or the numbers of all those that it stands for.

    The logit of several is the logarithm of their summed exponentials, so that its probability is the sum of theirs; classes
    that are not named get no probability. `resize`: height and width that images are brought to first, bilinearly.
    """

    teacher: Teacher
    classes: Classes = ()
    resize: tuple[int, int] | None = None

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [batch, the student's classes]. Raises UserError for a class that the teacher does not have."""
        return self._mapped(self.teacher.outputs(self._resized(inputs)))

    def each(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of each teacher [batch, members, the student's classes]. Raises UserError as `outputs` does."""
        said = self.teacher.each(self._resized(inputs))
        return torch.stack([self._mapped(member) for member in said.unbind(1)], 1)

    def features(self, inputs: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits, found = self.teacher.features(self._resized(inputs), names)
        return self._mapped(logits), found

    def shapes(self, inputs: torch.Tensor, named: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
        return self.teacher.shapes(self._resized(inputs), named)

    def partial(self, inputs: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        return self.teacher.partial(self._resized(inputs), names)

    def onwards(self, inputs: torch.Tensor, name: str, features: torch.Tensor) -> torch.Tensor:
        return self._mapped(self.teacher.onwards(self._resized(inputs), name, features))

    def embeddings(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.teacher.embeddings(self._resized(inputs))

    def _resized(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.resize is None or inputs.shape[2:] == self.resize:
            return inputs
        if inputs.dim() != 4 or not inputs.is_floating_point():
            kind = f"{list(inputs.shape)}, {inputs.dtype}"
            message = (
                f"the teacher's `resize` is for float images [batch, channels, height, width]; the inputs are {kind}"
            )
            raise UserError(message, hint="leave it out, and let the teacher's factory prepare its inputs")
        return interpolate(inputs, self.resize, mode="bilinear", align_corners=False)

    def _mapped(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.classes:
            return logits
        groups = [[one] if isinstance(one, int) else list(one) for one in self.classes]
        for number in (n for group in groups for n in group):
            if not 0 <= number < logits.shape[1]:
                message = f"the teacher's `classes` names its class {number}; it has {logits.shape[1]}"
                raise UserError(message, hint=f"numbers from 0 to {logits.shape[1] - 1}")
        return torch.stack([logits[:, group].logsumexp(1) for group in groups], 1)
