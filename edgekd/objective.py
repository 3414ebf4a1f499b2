"""The objective: the weighted sum of the losses that a recipe names, for one batch of a student and its teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn

from edgekd import registry
from edgekd.errors import EdgekdError, UserError, nearest
from edgekd.features import capture
from edgekd.stage import Use

if TYPE_CHECKING:
    from edgekd.teacher import Teacher

WANTS = ("labels", "logits", "features")


class Loss(Protocol):
    """The contract of a file in `edgekd/losses/`, told there."""

    wants: ClassVar[str]

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor: ...


class Objective:
    """Made once for a stage, called for each batch. It holds the learned projectors, which end with it.

    `losses`: what `stage.uses` reads from a recipe. `teacher` is called only where a loss wants what is not given.
    Raises UserError for a loss that does not exist, or a field of it that is wrong.
    """

    def __init__(self, losses: Sequence[Use], teacher: Callable[[], Teacher]) -> None:
        self.terms: dict[str, tuple[float, Any]] = {}
        for use in losses:
            loss = registry.build("losses", use.use, use.fields)
            if getattr(loss, "wants", None) not in WANTS:
                message = f"{registry.file_of('losses', use.use)}: `wants` is {getattr(loss, 'wants', None)!r}"
                raise UserError(message, hint=nearest("", WANTS))
            count = sum(name.partition(" ")[0] == use.use for name in self.terms)
            self.terms[f"{use.use} {count + 1}" if count else use.use] = use.weight, loss
        self.projectors = nn.ModuleDict()
        self._teacher = teacher

    def wants(self, kind: str) -> bool:
        """Whether some loss wants "labels", "logits" or "features"."""
        return any(loss.wants == kind for _, loss in self.terms.values())

    def prepare(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, seed: int) -> None:
        """Run once on a few samples [n, ...] without gradients: make the projectors, from `seed`, and find what does not fit."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            self(model, inputs, targets)

    def __call__(
        self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """{loss: weight times its value} for inputs [batch, ...], targets [batch]; `teacher`: its logits if already known.

        Raises UserError where teacher and student do not fit each other, EdgekdError for a loss without a gradient.
        """
        with capture(model, self._modules("student"), "student") as own:
            logits = model(inputs)
        known, features = self._asked(inputs, teacher)
        if known is not None and known.shape != logits.shape:
            shapes = f"the teacher gives logits {list(known.shape)}, the student {list(logits.shape)}"
            raise UserError(shapes, hint="both need the same classes, in the same order")
        found = {}
        for name, (weight, loss) in self.terms.items():
            if loss.wants == "features":
                theirs = features[loss.teacher]
                value = loss(self._projected(name, loss, own[loss.student], theirs), theirs)
            else:
                value = loss(logits, targets if loss.wants == "labels" else known)
            found[name] = weight * value
            if torch.is_grad_enabled() and not found[name].requires_grad:
                raise EdgekdError(f'the loss "{name}" has no gradient: nothing that it reads can be trained')
        return found

    def _asked(
        self, inputs: torch.Tensor, known: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """The teacher's logits and features: what is wanted and not yet known is asked of the teacher."""
        if self.wants("features"):
            logits, features = self._teacher().features(inputs, self._modules("teacher"))
            return (logits if known is None else known), features
        if self.wants("logits") and known is None:
            return self._teacher().outputs(inputs), {}
        return known, {}

    def _modules(self, whose: str) -> list[str]:
        return sorted({getattr(loss, whose) for _, loss in self.terms.values() if loss.wants == "features"})

    def _projected(self, name: str, loss: Any, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        if not hasattr(loss, "projector"):
            return student
        if name not in self.projectors:
            self.projectors[name] = loss.projector(student, teacher)
        projected: torch.Tensor = self.projectors[name](student)
        return projected
