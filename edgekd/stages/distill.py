"""Train the student against its teacher, and keep its best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekd.errors import UserError
from edgekd.schedule import Training
from edgekd.stage import Context, Stage, Use, taught, uses

if TYPE_CHECKING:
    from torch import nn

    from edgekd.student import Student

__all__ = ["Distill"]


@dataclass(frozen=True, kw_only=True)
class Distill(Training, Stage):
    """`losses` are tables, `{ use = "kl", temperature = 4.0, weight = 0.5 }`; their weighted sum is minimised.

    A student without weights yet is drawn from the recipe's seed. The validation split chooses the epoch.

    `teacher = "student"`: the student as the stage before left it teaches. With `fresh`, which begins again from new random
    weights, that is a generation born again (Furlanello et al. 2018, arXiv 1805.04770); with `arguments`, which replace those of
    the student's factory in this stage's new student, a chain of assistants of sizes between (Mirzadeh et al. 2019, arXiv
    1902.03393). `fresh` without arguments makes the student that [student] says.
    """

    losses: tuple[dict[str, Any], ...]
    teacher: Literal["teacher", "student"] = "teacher"
    fresh: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.objective()[1]:
            raise UserError("distill: losses: there is none", hint='as in losses = [{ use = "kl", temperature = 4.0 }]')
        if self.arguments and not self.fresh:
            raise UserError("distill: arguments: they make a new student", hint="fresh = true, or leave them out")
        if self.teacher == "student" and not taught(self.objective()[1]):
            raise UserError("distill: teacher: no loss asks a teacher", hint='losses = [{ use = "kl" }]')

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]  # it depends on the losses
        """Labels alone need no teacher, nor does a student that teaches itself."""
        asked = self.teacher == "teacher" and taught(self.objective()[1])
        return frozenset({"data", "teacher"} if asked else {"data"})

    def objective(self) -> tuple[str, tuple[Use, ...]]:
        return "losses", uses(self.losses, "distill: losses")

    def names(self) -> list[tuple[str, str, str]]:
        return [("losses", "losses", use.use) for use in self.objective()[1]]

    def check(self) -> None:
        """Build the losses. Raises UserError for an unknown field, a value out of range, or too small a batch."""
        from edgekd.terms import check

        check(self.objective()[1], self.batch)

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns the history: {"best", "epochs"}, as `edgekd.training.train` tells it."""
        from edgekd.objective import Objective
        from edgekd.quant.guidance import with_student
        from edgekd.student import save, save_next
        from edgekd.training import train

        network = self._network(student, context)
        if self.teacher == "student":
            context = with_student(context, student, alone=True)
        peer = context.factory
        objective = Objective(self.objective()[1], context.teacher, lambda seed: peer(seed, **self._instead(student)))
        history = train(network, objective, context, self, label="distill")
        if self.fresh:
            save(out, network.state_dict(), [], student.signature, {**student.origin, "instead": dict(self.arguments)})
        else:
            save_next(out, student, network.state_dict())
        return history

    def _network(self, student: Student, context: Context) -> nn.Module:
        """What is trained: the student with its weights, or a new one, drawn from the seed."""
        import torch

        from edgekd.digest import of_file
        from edgekd.training import derive

        weights = student.path / "weights.safetensors"
        with torch.random.fork_rng(devices=[]):
            if self.fresh:
                before = of_file(weights) if weights.is_file() else ""
                return context.factory(derive(context.seed, "fresh", before), **self.arguments)
            if weights.is_file():
                return student.network()
            torch.manual_seed(context.seed)
            return student.unloaded()

    def _instead(self, student: Student) -> Mapping[str, Any]:
        """The arguments of the factory by which a peer is made."""
        return self.arguments if self.fresh else student.origin.get("instead", {})
