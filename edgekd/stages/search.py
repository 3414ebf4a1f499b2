"""Choose the student: arguments of its factory, by measured latency and by similarity to the teacher before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from edgekd.errors import UserError
from edgekd.pipeline.step import TORCH
from edgekd.search.space import SearchBudget, Space, check_own, said, space_of
from edgekd.search.study import PACKAGE
from edgekd.stage import Context, Stage, Use, uses
from edgekd.training.schedule import Training
from edgekd.units import format_seconds

if TYPE_CHECKING:
    import torch

    from edgekd.search.evolution import Candidate
    from edgekd.search.space import Variants
    from edgekd.student import Student

__all__ = ["Search"]


@dataclass(frozen=True, kw_only=True)
class Search(Training, Stage):
    """`arguments` of the student's factory are tables of values, `width = [8, 16]`, or ranges, `depth = { low = 1, high = 4 }`.

    An evolution of `generations` of `population` candidates each, from the recipe's own student on (or, where that is enough, a
    look at every choice), finds those most
    like the teacher (DisWOT: no training, `samples` of the training split) among all whose fastest engine keeps
    `budget = { latency = "0.5x" }` on the target, compiled and raced. The `best` few are then distilled for `epochs` with
    `losses`; validation chooses, and the stages that follow go on with that one. It comes first: what it makes is new,
    with weights of its own. The test split is not read. `found.toml` beside the report is the recipe with what was found.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"teacher", "data", "target"})
    packages: ClassVar[tuple[str, ...]] = (*TORCH, PACKAGE)

    arguments: dict[str, Any]
    budget: SearchBudget
    population: Annotated[int, Field(ge=2)] = 12
    generations: Annotated[int, Field(ge=1)] = 4
    best: Annotated[int, Field(ge=1)] = 3
    samples: Annotated[int, Field(ge=2)] = 64
    losses: tuple[dict[str, Any], ...] = (
        {"use": "cross_entropy", "weight": 0.5},
        {"use": "kl", "temperature": 4.0, "weight": 0.5},
    )
    epochs: Annotated[int, Field(ge=1)] = 2

    def __post_init__(self) -> None:
        space_of(self.arguments)
        if not self.objective()[1]:
            raise UserError("search: losses: there is none", hint='as in losses = [{ use = "kl", temperature = 4.0 }]')

    @property
    def varied(self) -> Space:
        return space_of(self.arguments)

    def objective(self) -> tuple[str, tuple[Use, ...]]:
        return "losses", uses(self.losses, "search: losses")

    def names(self) -> list[tuple[str, str, str]]:
        return [("losses", "losses", use.use) for use in self.objective()[1]]

    def check(self) -> None:
        """Build the losses. Raises UserError for a wrong field, too small a batch, or where Optuna is needed and missing."""
        from edgekd.search.evolution import small
        from edgekd.search.study import optuna
        from edgekd.training.terms import check

        check(self.objective()[1], self.batch)
        if not small(self.varied, self.population, self.generations):
            optuna("search")

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns {"search": what was tried, what was allowed and what was chosen}.

        Raises UserError where no candidate keeps the budget, with the least latency that was reached and its score.
        """
        from edgekd.search.evolution import Assessor, evolve
        from edgekd.search.similarity import suits, teachers_view
        from edgekd.student import save

        if student.edits or "instead" in student.origin:
            raise UserError("search: what earlier stages did would be lost", hint="let search be the first stage")
        variants, space = context.variants(), self.varied
        check_own(space, variants.own)
        inputs, targets = self._samples(context)
        teacher = teachers_view(context.teacher(), inputs)
        own = {name: variants.own[name] for name in space}
        score = variants.score
        assess = Assessor(
            variants,
            own,
            lambda arguments: suits(teacher, lambda draw: variants.make(arguments, draw), inputs, targets),
            context.work,
            context.progress,
            spread=(lambda drawn: score(drawn, teacher, inputs, targets)) if score else None,
        )
        found = evolve(
            space,
            own,
            assess,
            lambda: assess.allowed(self.budget.seconds),
            population=self.population,
            generations=self.generations,
            seed=context.seed,
        )
        allowed = assess.allowed(self.budget.seconds)
        ranked = self._fast_enough(found, allowed)
        trained, weights = self._distilled(ranked[: self.best], variants, context)
        chosen = max(trained, key=lambda one: (one.validation or 0.0, one.score or 0.0))
        origin = student.origin
        arguments = {**origin.get("arguments", {}), **chosen.arguments}
        save(out, weights[said(chosen.arguments)], [], student.signature, {**origin, "arguments": arguments})
        known = {said(one.arguments): one for one in trained}
        rows = [asdict(known.get(said(one.arguments), one)) for one in found]
        facts = {"budget": self.budget.latency, "allowed": allowed, "whole": assess.whole, "epochs": self.epochs}
        return {"search": {**facts, "chosen": chosen.arguments, "candidates": rows}}

    def _samples(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs [samples, ...], labels [samples]) of the training split, the same for the same seed, those with a label."""
        import torch

        from edgekd.training.train import derive

        inputs, targets = context.data().train
        if targets.is_floating_point():
            raise UserError("search: similarity to the teacher is told by classes, and the targets are no labels")
        order = torch.randperm(
            len(inputs), generator=torch.Generator().manual_seed(derive(context.seed, "search samples"))
        )
        order = order[targets[order] >= 0][: self.samples]
        return inputs[order], targets[order]

    def _fast_enough(self, found: Sequence[Candidate], allowed: float) -> list[Candidate]:
        """Those that keep the budget, the most alike first. Raises UserError where there is none."""
        timed = [one for one in found if one.seconds is not None and one.score is not None]
        kept = [one for one in timed if (one.seconds or 0.0) <= allowed]
        if not kept:
            least = min(timed, key=lambda one: one.seconds or 0.0)
            reached = (
                f"{format_seconds(least.seconds or 0.0)} with {said(least.arguments)}, whose score is {least.score:.4g}"
            )
            message = (
                f"budget.latency {self.budget.latency} ({format_seconds(allowed)}) is kept by none of {len(timed)} students: "
                f"the least latency reached is {reached}"
            )
            raise UserError(f"search: {message}", hint="allow more, or give `arguments` smaller values")
        return sorted(kept, key=lambda one: -(one.score or 0.0))

    def _distilled(
        self, few: Sequence[Candidate], variants: Variants, context: Context
    ) -> tuple[list[Candidate], Mapping[str, dict[str, torch.Tensor]]]:
        """The candidates with their validation metric, and the weights of each at its best epoch."""
        from edgekd.training.objective import Objective
        from edgekd.training.train import train

        found, weights = [], {}
        for place, one in enumerate(few, 1):
            network = variants.make(one.arguments, 0)
            objective = Objective(self.objective()[1], context.teacher, partial(variants.make, one.arguments))
            label = f"search: {place} of {len(few)}, {said(one.arguments)[:60]}"
            history = train(network, objective, context, self, label=label)
            validation = history["epochs"][history["best"]]["validation"]
            found.append(replace(one, validation=validation))
            weights[said(one.arguments)] = network.state_dict()
        return found, weights
