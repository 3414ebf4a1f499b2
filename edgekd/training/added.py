"""Terms that a stage adds to the losses that a recipe names, with what they learn."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Added(nn.Module, ABC):
    """Called after each forward pass of the model. Its parameters are learned with the model's, and kept in the checkpoints."""

    settings: str
    """What its terms depend on: a checkpoint that was made with other ones is of another run."""

    @property
    @abstractmethod
    def faster(self) -> tuple[list[nn.Parameter], float]:
        """Those of its parameters that have a learning rate of their own, and that rate, the highest."""

    @abstractmethod
    def forward(self, inputs: torch.Tensor, progress: float) -> dict[str, torch.Tensor]:
        """{term: its value, a scalar} for the inputs [batch, ...] that the model has just seen; `progress` from 0 to just below 1."""
