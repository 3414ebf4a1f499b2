"""What a loss is given: one batch, what both networks make of it, and which part of that each loss wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

MODULES = ("features", "branch", "self", "masked", "head")
"""What is wanted of modules of the student, not of its logits."""
TARGETS = ("labels", "self")
"""What is compared with labels: no teacher is asked."""

Names = str | tuple[str, ...]


class Masked(NamedTuple):
    """What the student's features of masked inputs are compared with."""

    features: torch.Tensor
    """What the teacher's module gives for the inputs without what is hidden."""
    inputs: torch.Tensor
    """[batch, channels, height, width], whole."""
    hidden: torch.Tensor
    """[batch, 1, height, width], true where student and teacher saw zeros."""


@dataclass(frozen=True)
class Batch:
    """Samples, and what was made of them; modules are called by their names."""

    inputs: torch.Tensor | None
    """None where no loss runs a part of a network again."""
    targets: torch.Tensor
    samples: torch.Tensor
    """Their indices in the training split [batch]."""
    logits: torch.Tensor
    """The student's."""
    teacher: torch.Tensor | None
    """The teacher's logits, where a loss wants them."""
    own: dict[str, torch.Tensor]
    """What the student's modules give."""
    fed: dict[str, torch.Tensor]
    """What they are given."""
    features: dict[str, torch.Tensor]
    """What the teacher's modules give."""
    members: torch.Tensor | None
    """The logits of each of several teachers [batch, members, classes], where a loss wants them."""
    answers: dict[str, torch.Tensor]
    """The logits of whom the student learns with, without gradient."""

    def compared(self, loss: Any, of: str = "teacher") -> tuple[Any, Any]:
        """What a loss is given of student and teacher, or of whom else it learns `of`: tensors, or lists of them where it
        names several modules.
        """
        theirs: Any = self.targets if loss.wants in TARGETS else self.teacher
        if of != "teacher":
            theirs = self.answers[of]
        elif loss.wants == "members":
            theirs = self.members
        if loss.wants not in MODULES:
            return self.logits, theirs
        if loss.wants == "head":
            return self.fed[loss.student], theirs
        if loss.wants == "features":
            theirs = _named(self.features, loss.teacher)
        return _named(self.own, loss.student), theirs

    def known(self, progress: float) -> dict[str, Any]:
        """What a loss may want besides, by keyword."""
        facts = {"samples": self.samples, "progress": progress, "own": self.logits, "logits": self.teacher}
        return {**facts, "labels": self.targets, "targets": self.targets}

    def of(self, which: torch.Tensor) -> Batch:
        """Some of its samples."""

        def some(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: x[which] for name, x in found.items()}

        def one(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else x[which]

        return Batch(
            inputs=one(self.inputs),
            targets=self.targets[which],
            samples=self.samples[which],
            logits=self.logits[which],
            teacher=one(self.teacher),
            own=some(self.own),
            fed=some(self.fed),
            features=some(self.features),
            members=one(self.members),
            answers=some(self.answers),
        )


def _named(found: dict[str, torch.Tensor], names: Names) -> Any:
    return found[names] if isinstance(names, str) else [found[name] for name in names]


def listed(names: Names) -> list[str]:
    """The names that are given: none of "".

    >>> listed("down"), listed(""), listed(("stem", "down"))
    (['down'], [], ['stem', 'down'])
    """
    return list(names) if isinstance(names, tuple) else [names] if names else []
