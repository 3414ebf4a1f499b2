"""Train the student against its teacher, and keep its best epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import UserError
from edgekd.schedule import Training
from edgekd.stage import Context, Stage, uses

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
        if not uses(self.losses, "distill: losses"):
            raise UserError("distill: losses: there is none", hint='as in losses = [{ use = "kl", temperature = 4.0 }]')

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]  # it depends on the losses
        """Labels alone need no teacher."""
        alone = {name for _, _, name in self.names()} == {"cross_entropy"}
        return frozenset({"data"} if alone else {"data", "teacher"})

    def names(self) -> list[tuple[str, str, str]]:
        return [("losses", "losses", use.use) for use in uses(self.losses, "distill: losses")]

    def check(self) -> None:
        """Build the losses. Raises UserError for an unknown field or a value out of range."""
        from edgekd import registry

        for use in uses(self.losses, "distill: losses"):
            registry.build("losses", use.use, use.fields)

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
        objective = Objective(uses(self.losses, "distill: losses"), context.teacher)
        history = train(network, objective, context, self, label="distill")
        save_next(out, student, network.state_dict())
        return history
