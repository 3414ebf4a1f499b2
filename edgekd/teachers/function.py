"""Any function from arrays to logits: a network of another framework, a service, an algorithm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from edgekd.errors import UserError
from edgekd.teacher import Teacher

__all__ = ["Function"]


@dataclass(frozen=True, eq=False)
class Function(Teacher):
    """What the section's `factory` returns: inputs [batch, ...] as a numpy array → logits [batch, classes], an array."""

    made_from: ClassVar[str] = "function"
    function: Callable[[np.ndarray[Any, Any]], Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            kind = type(self.function).__name__
            raise UserError(f"the teacher's factory returned a {kind}", hint="return a function of one numpy array")

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes], float32. Raises UserError for whatever the function raises, and for another shape."""
        try:
            logits = np.array(self.function(inputs.numpy()), np.float32)
        except Exception as error:
            message = f"the teacher's function failed on inputs {list(inputs.shape)}: {type(error).__name__}: {error}"
            raise UserError(message) from error
        if logits.ndim != 2 or len(logits) != len(inputs):
            message = f"the teacher's function gives {list(logits.shape)} for inputs {list(inputs.shape)}"
            raise UserError(message, hint="logits are [batch, classes]")
        return torch.from_numpy(logits)
