"""Train the student against its teacher, and keep its best epoch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekd.errors import UserError
from edgekd.pipeline.step import TORCH
from edgekd.search.budget import LossBudget
from edgekd.search.study import PACKAGE
from edgekd.stage import Context, Stage, Use, taught, uses
from edgekd.training.schedule import Training

if TYPE_CHECKING:
    from torch import nn

    from edgekd.student import Student

__all__ = ["Distill"]

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Distill(Training, Stage):
    """`losses` are tables, `{ use = "kl", temperature = 4.0, weight = 0.5 }`; their weighted sum is minimised.

    Or `losses = "auto"` with `budget = { epochs = 60, among = ["cross_entropy", "kl", "hint"] }`: they are searched for, with their
    weights, temperatures and the modules that are paired, by successive halving on the validation split; so many epochs may all
    tries together train. The report tells what was tried, and `found.toml` beside it is the recipe with what was found.

    A student without weights yet is drawn from the recipe's seed. The validation split chooses the epoch.

    `teacher = "student"`: the student as the stage before left it teaches. With `fresh`, which begins again from new random
    weights, that is a generation born again (Furlanello et al. 2018, arXiv 1805.04770); with `arguments`, which replace those of
    the student's factory in this stage's new student, a chain of assistants of sizes between (Mirzadeh et al. 2019, arXiv
    1902.03393). `fresh` without arguments makes the student that [student] says, or that a search found.
    """

    losses: tuple[dict[str, Any], ...] | Literal["auto"]
    budget: LossBudget | None = None
    teacher: Literal["teacher", "student"] = "teacher"
    fresh: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.losses == AUTO) != (self.budget is not None):
            said = "is missing" if self.losses == AUTO else 'is for losses = "auto"'
            raise UserError(f"budget: {said}", hint='losses = "auto" with budget = { epochs = 60 }')
        if self.losses != AUTO and not self.objective()[1]:
            raise UserError("distill: losses: there is none", hint='as in losses = [{ use = "kl", temperature = 4.0 }]')
        if self.budget is not None and self.budget.epochs < self.epochs:
            message = f"budget.epochs: {self.budget.epochs} are fewer than one training takes, {self.epochs}"
            raise UserError(message, hint="allow several trainings' worth")
        if self.arguments and not self.fresh:
            raise UserError("distill: arguments: they make a new student", hint="fresh = true, or leave them out")
        if self.teacher == "student" and not self._taught:
            raise UserError("distill: teacher: no loss asks a teacher", hint='losses = [{ use = "kl" }]')

    @property
    def _taught(self) -> bool:
        return self.losses == AUTO or taught(self.objective()[1])

    @property
    def reads(self) -> frozenset[str]:  # type: ignore[override]  # it depends on the losses
        """Labels alone need no teacher, nor does a student that teaches itself."""
        return frozenset({"data", "teacher"} if self.teacher == "teacher" and self._taught else {"data"})

    @property
    def packages(self) -> tuple[str, ...]:  # type: ignore[override]  # it depends on the losses
        return (*TORCH, PACKAGE) if self.losses == AUTO else TORCH

    def objective(self) -> tuple[str, tuple[Use, ...]]:
        return "losses", () if isinstance(self.losses, str) else uses(self.losses, "distill: losses")

    def names(self) -> list[tuple[str, str, str]]:
        if self.budget is not None:
            return [("budget", "losses", name) for name in self.budget.among]
        return [("losses", "losses", use.use) for use in self.objective()[1]]

    def check(self) -> None:
        """Build the losses. Raises UserError for an unknown field, a value out of range, or too small a batch."""
        from edgekd.search.study import optuna
        from edgekd.training.terms import check

        if self.budget is not None:
            optuna('losses = "auto"')
            if (never := self.budget.never) is not None:
                message = f'distill: budget.among: "{never}" is on neither labels, logits nor features of one module: it is never tried'
                raise UserError(message, hint="leave it out, or name it in the losses of a stage")
        check(uses(self._each(), "distill: budget.among"), self.batch)

    def _each(self) -> tuple[dict[str, Any], ...]:
        if self.budget is not None:
            return tuple({"use": name} for name in self.budget.among)
        assert not isinstance(self.losses, str)
        return self.losses

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns the history, {"best", "epochs"}, as `edgekd.training.train.train` tells it; of a search also "auto", what was tried."""
        from edgekd.quant.guidance import with_student
        from edgekd.student import save, save_next

        if self.teacher == "student":
            context = with_student(context, student, alone=True)
        facts: dict[str, Any] = {}
        losses, where = self._each(), context
        if self.budget is not None:
            facts["auto"], where = self._searched(student, context)
            losses = facts["auto"]["losses"]
        network, history = self._trained(student, where, losses, self.epochs, "distill")
        if self.fresh:
            save(out, network.state_dict(), [], student.signature, {**student.origin, "instead": dict(self.arguments)})
        else:
            save_next(out, student, network.state_dict())
        return {**history, **facts}

    def _trained(
        self, student: Student, context: Context, losses: tuple[dict[str, Any], ...], epochs: int, label: str
    ) -> tuple[nn.Module, dict[str, Any]]:
        """A network from the student's start, trained, and its history."""
        from edgekd.training.objective import Objective
        from edgekd.training.train import train

        network, arguments = self._network(student, context), self._arguments(student)
        objective = Objective(
            uses(losses, "distill: losses"),
            context.teacher,
            lambda seed, **other: context.factory(seed, **{**arguments, **other}),
        )
        before = student.network() if self.fresh and self.select == "difference" else None
        return network, train(network, objective, context, replace(self, epochs=epochs), label=label, before=before)

    def _network(self, student: Student, context: Context) -> nn.Module:
        """What is trained: the student with its weights, or a new one, drawn from the seed."""
        import torch

        from edgekd.digest import of_file
        from edgekd.training.train import derive

        weights = student.path / "weights.safetensors"
        with torch.random.fork_rng(devices=[]):
            if self.fresh:
                before = of_file(weights) if weights.is_file() else ""
                return context.factory(derive(context.seed, "fresh", before), **self._arguments(student))
            if weights.is_file():
                return student.network()
            torch.manual_seed(context.seed)
            return student.unloaded()

    def _arguments(self, student: Student) -> dict[str, Any]:
        """The arguments of the factory by which this stage's student is made, if it is a new one, and a peer of it."""
        return {**student.origin.get("arguments", {}), **self.arguments} if self.fresh else student.arguments

    def _searched(self, student: Student, context: Context) -> tuple[dict[str, Any], Context]:
        """What was tried and found, and the context in whose folder the training with what was found is, if it came so far.

        Raises UserError where nothing could be trained.
        """
        from edgekd.search.halving import best, halve
        from edgekd.search.losses import pairs_of, said

        assert self.budget is not None

        def place(number: int, epochs: int) -> Context:
            return replace(context, work=context.work / f"try-{number}-{epochs}")

        def trained(losses: list[dict[str, Any]], number: int, epochs: int) -> float:
            where = place(number, epochs)
            where.work.mkdir(exist_ok=True)
            context.progress.say(f"  try {number + 1}, {epochs} epochs: {said(losses)}")
            _, history = self._trained(student, where, tuple(losses), epochs, "distill")
            if epochs < self.epochs:
                shutil.rmtree(where.work)
            return float(history["epochs"][history["best"]]["validation"])

        network = self._network(student, context)
        pairs = pairs_of(network.eval(), context.teacher(), context.data().train[0][:2])
        tried, spent = halve(trained, self.budget, self.epochs, pairs, context.work, context.seed)
        found = best(tried)
        if found is None:
            raise UserError(
                f"distill: every set of losses failed: {tried[0].reason}", hint="name others in budget.among"
            )
        rows = [{**one.to_json(), **({"verdict": "chosen"} if one is found else {})} for one in tried]
        facts = {"budget": self.budget.epochs, "spent": spent, "losses": tuple(found.losses), "tried": rows}
        where = place(found.number, self.epochs)
        where.work.mkdir(exist_ok=True)
        return facts, where
