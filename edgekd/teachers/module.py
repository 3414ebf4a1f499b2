"""A torch module: logits, and the outputs of its modules by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.teacher import Teacher
from edgekd.training.features import capture, shapes
from edgekd.training.partway import onwards, upto

__all__ = ["Module"]


@dataclass(frozen=True, eq=False)
class Module(Teacher):
    """`network` is put into eval mode and its parameters are frozen: inputs [batch, ...] → logits [batch, classes]."""

    network: nn.Module

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes]."""
        logits: torch.Tensor = self.network(inputs)
        return logits

    @torch.no_grad()
    def features(self, inputs: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits, and the outputs of the modules called `names`. Raises UserError, naming the nearest, for an unknown name."""
        with capture(self.network, names, "teacher") as caught:
            logits = self.network(inputs)
        return logits, caught

    def shapes(self, inputs: torch.Tensor, named: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
        """{module: the shape of what it gives}, in order. Raises UserError, naming the nearest, for an unknown name."""
        return shapes(self.network, inputs, "teacher", named)

    @torch.no_grad()
    def partial(self, inputs: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The outputs of the modules called `names`. Raises UserError, naming the nearest, for an unknown name."""
        return upto(self.network, names, inputs, "teacher")

    @torch.no_grad()
    def embeddings(self, inputs: torch.Tensor) -> torch.Tensor:
        """The vectors [tokens, width] of the embedding that is given `inputs` [batch, length] as they are.

        Raises UserError for a network without one.
        """
        found: list[torch.Tensor] = []

        def keep(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if given and given[0].shape == inputs.shape and torch.equal(given[0], inputs):
                found.append(module.get_parameter("weight"))

        hooks = [m.register_forward_pre_hook(keep) for m in self.network.modules() if isinstance(m, nn.Embedding)]
        try:
            self.network(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            message = f"no embedding of the teacher reads the inputs {list(inputs.shape)}, {inputs.dtype}"
            raise UserError(message, hint="tokens [batch, length], given to a torch.nn.Embedding as they are")
        return found[0]

    def onwards(self, inputs: torch.Tensor, name: str, features: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes]. Raises UserError, naming the nearest, for an unknown name."""
        return onwards(self.network, name, inputs, features, "teacher")
