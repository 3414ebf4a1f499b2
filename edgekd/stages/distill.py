"""Train the student against its teacher, and keep its best epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import UserError
from edgekd.schedule import Training
from edgekd.stage import Context, Stage, Use, taught, uses

if TYPE_CHECKING:
    from edgekd.student import Student

__all__ = ["Distill"]


@dataclass(frozen=True, kw_only=True)
class Distill(Training, Stage):
    """`losses` are tables, `{ use = "kl", temperature = 4.0, weight = 0.5 }`; their weighted sum is minimised.

    A student without weights yet is drawn from the recipe's seed. The validation split chooses the epoch.
    """

    losses: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        if not self.objective()[1]:
            raise UserError("distill: losses: there is none", hint='as in losses = [{ use = "kl", temperature = 4.0 }]')

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]  # it depends on the losses
        """Labels alone need no teacher."""
        return frozenset({"data", "teacher"} if taught(self.objective()[1]) else {"data"})

    def objective(self) -> tuple[str, tuple[Use, ...]]:
        return "losses", uses(self.losses, "distill: losses")

    def names(self) -> list[tuple[str, str, str]]:
        return [("losses", "losses", use.use) for use in self.objective()[1]]

    def check(self) -> None:
        """Build the losses. Raises UserError for an unknown field, a value out of range, or too small a batch."""
        from edgekd.objective import check

        check(self.objective()[1], self.batch)

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns the history: {"best", "epochs"}, as `edgekd.training.train` tells it."""
        import torch

        from edgekd.objective import Objective
        from edgekd.student import save_next
        from edgekd.training import train

        if (student.path / "weights.safetensors").is_file():
            network = student.network()
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(context.seed)
                network = student.unloaded()
        objective = Objective(self.objective()[1], context.teacher)
        history = train(network, objective, context, self, label="distill")
        save_next(out, student, network.state_dict())
        return history
