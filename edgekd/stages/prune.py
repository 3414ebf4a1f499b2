"""Remove the channels that the student misses least, then let it recover by distillation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from edgekd import registry
from edgekd.errors import UserError
from edgekd.pruning.budget import Allocation, PruneBudget
from edgekd.stage import Context, Stage, Use, uses
from edgekd.training.schedule import Training

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekd.pruning.groups import Group, Groups
    from edgekd.pruning.scoring import Batch, Criterion, Learner
    from edgekd.student import Student
    from edgekd.training.added import Added

__all__ = ["Prune"]


@dataclass(frozen=True, kw_only=True)
class Prune(Training, Stage):
    """Structured pruning: whole channels go, from every layer that is coupled to them; the rest is an ordinary smaller network.

    `ratio` is the share of channels to remove, of those that can be; kept channels are rounded to the target's channel
    multiple. Or `budget = { latency = "0.5x", size = "20 kB", memory = "60 MB" }`, one of them or several: the widths are chosen
    together, so that most importance is kept of all that keeps the budget, by what engines of this student were measured to take at
    many widths (docs/decisions/0009); the plan is then compiled and measured. `allocation` "macs" chooses by multiply-accumulates and
    "uniform" takes the same share of each group, as much as keeps the budget: to compare with.
    `samples` of the training split give the gradients that a criterion needs. Then the student is trained as in distill, for
    `epochs`; 0 leaves it as pruned.

    Of a transformer the groups are the heads of each attention, the channels of each feed-forward layer, and those of the residual
    stream, through embeddings and layer norms. `layers` takes so many residual branches out whole besides, attention or feed-forward,
    those that the criterion misses least. A criterion with fields is a table: `{ use = "cofi", epochs = 20 }`, which learns masks of
    all of these together with the weights (edgekd/criteria/cofi.py); `ratio` is then the share of those weights to remove, and a
    `budget` one of latency.

    `scope` "global" compares channels of all groups and takes from the wide, idle ones; "per_group" takes the same share
    everywhere. Global is the default because it loses less: on a student distilled on Fashion-MNIST, cut by `teacher_gap`
    to the same 43% of its multiply-accumulates, 69% against 34% validation accuracy before recovery, 88.9% against 87.8%
    test accuracy after two epochs of it (one seed).
    """

    reads: ClassVar[frozenset[str]] = frozenset({"teacher", "data", "target"})

    criterion: str | dict[str, Any] = "teacher_gap"
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    budget: PruneBudget | None = None
    allocation: Allocation = "latency"
    scope: Literal["global", "per_group"] = "global"
    layers: Annotated[int, Field(ge=0)] = 0
    samples: Annotated[int, Field(ge=1)] = 512
    losses: tuple[dict[str, Any], ...] = (
        {"use": "cross_entropy", "weight": 0.5},
        {"use": "kl", "temperature": 4.0, "weight": 0.5},
    )
    epochs: Annotated[int, Field(ge=0)] = 4

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.budget is None):
            said = "neither is" if self.ratio is None else "both are"
            raise UserError(f"prune: ratio: give it or `budget`; {said} given", hint='budget = { latency = "0.5x" }')
        if self.budget is None and self.allocation != "latency":
            raise UserError("prune: allocation: it is of a budget", hint='budget = { latency = "0.5x" }, or scope')
        if not self.objective()[1]:
            raise UserError("prune: losses: there is none", hint='as in losses = [{ use = "kl", temperature = 4.0 }]')
        if self.layers and self.budget is not None:
            raise UserError("prune: layers: a latency budget chooses widths only", hint="`ratio` in place of `budget`")
        if not self._asked[0]:
            raise UserError(
                "prune: criterion: the table has no `use`", hint='criterion = { use = "cofi", epochs = 20 }'
            )

    @property
    def _asked(self) -> tuple[str, dict[str, Any]]:
        """The criterion's name, and the fields that the recipe sets of it."""
        if isinstance(self.criterion, str):
            return self.criterion, {}
        return str(self.criterion.get("use", "")), {k: v for k, v in self.criterion.items() if k != "use"}

    @property
    def _trains(self) -> bool:
        """Whether the criterion trains, read from its file without importing it."""
        return bool(registry.constant("criteria", self._asked[0], "needs") == "training")

    @property
    def priced(self) -> bool:
        return self.budget is not None and not self._trains

    @property
    def weighed(self) -> bool:
        return self.priced and self.budget is not None and self.budget.memory is not None

    @property
    def races(self) -> bool:
        return self.budget is not None and self._trains

    def objective(self) -> tuple[str, tuple[Use, ...]]:
        return "losses", uses(self.losses, "prune: losses")

    def names(self) -> list[tuple[str, str, str]]:
        losses = [("losses", "losses", use.use) for use in self.objective()[1]]
        return [("criterion", "criteria", self._asked[0]), *losses]

    def check(self) -> None:
        """Build criterion and losses. Raises UserError for an unknown field, a value out of range, or too small a batch."""
        from edgekd.training.terms import check

        if self._criterion().needs == "training":
            wrong = [
                (self.budget is not None and [*self.budget.given] != ["latency"], "budget", "of a latency alone"),
                (self.allocation != "latency", "allocation", "it learns what goes"),
                (bool(self.layers), "layers", "it finds itself which layers go"),
                (self.optimizer != "adamw", "optimizer", 'it needs "adamw"'),
                (any(use.of == "average" for use in self.objective()[1]), "losses", "an average has no gates"),
            ]
            for is_wrong, key, why in wrong:
                if is_wrong:
                    raise UserError(f'prune: {key}: not with criterion "{self._asked[0]}": {why}')
        check(self.objective()[1], self.batch)

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns widths by group, what was left whole and why, the branches taken out, size and validation metric at each step,
        and the history.

        Raises UserError for a student of which nothing can be pruned.
        """
        from edgekd.pipeline.judge import size
        from edgekd.pruning.edits import closed, replay
        from edgekd.pruning.groups import cut, find
        from edgekd.student import save_next

        network = student.network()
        opened = closed(network)
        replay(network, {"edit": "prune", "kept": {}, "opened": opened})
        groups = find(network, context.data().train[0][:2])
        before = {**size(network, student.example()), "validation": _validation(network, context)}
        plan = self._plan(student, network, groups, opened, context)
        keep, facts = plan["keep"], dict(plan["facts"])
        narrow = cut(groups.prunable, keep, plan["removed"])
        widths = {g.name: {"before": g.channels, "after": len(keep[g.name])} for g in groups.prunable if g.name in keep}
        whole, left = (sum(width[when] for width in widths.values()) for when in ("before", "after"))
        edit = {
            "edit": "prune",
            **({"opened": opened} if opened else {}),
            **narrow,
            "criterion": self._asked[0],
            "ratio": self.ratio or 1 - left / whole,
        }
        facts |= {"groups": widths, "whole": plan["whole"], "before": before}
        facts |= {"removed": sorted(plan["removed"])} if plan["removed"] else {}
        if "note" in facts:
            context.progress.say(f"  {facts['note']}")
        replay(network, {"edit": "prune", **narrow})
        facts["pruned"] = {**size(network, student.example()), "validation": _validation(network, context)}
        if self.epochs:
            facts["recovery"] = self._train(network, student, context, self)
            facts["recovered"] = {"validation": _validation(network, context)}
        save_next(out, student, network.state_dict(), edit)
        return facts

    def _plan(
        self, student: Student, network: nn.Module, groups: Groups, opened: Sequence[str], context: Context
    ) -> dict[str, Any]:
        """{"keep": {group: channels}, "removed": parts of branches, "whole": what was left whole and why, "facts"}, all of JSON:
        one process finds it. A criterion that trains leaves `network` trained.
        """
        criterion = self._criterion()
        if criterion.needs != "training":
            from edgekd.pruning.scoring import samples_of

            samples = samples_of(criterion, self._asked[0], self.samples, context)
            found: dict[str, Any] = context.world().agreed(
                lambda: self._planned(student, network, groups, criterion, samples, context)
            )
            return found
        from edgekd.pruning.learned import learned

        gates = replace(self, epochs=criterion.epochs)
        fit, score = partial(self._train, network, student, context, gates), partial(_validation, context=context)
        return learned(criterion, self._asked[0], network, groups, opened, self.budget, context, fit, score)

    def _planned(
        self,
        student: Student,
        network: nn.Module,
        groups: Groups,
        criterion: Criterion | Learner,
        samples: Iterable[Batch],
        context: Context,
    ) -> dict[str, Any]:
        """What `_plan` gives, of a criterion that leaves the weights as they are."""
        from edgekd.pruning.branches import branches, least
        from edgekd.pruning.groups import nothing
        from edgekd.pruning.scoring import scores

        able = branches(network, groups.prunable, context.data().train[0][:2]) if self.layers else ()
        found, unscored = scores(network, [*groups.prunable, *(branch.unit for branch in able)], criterion, samples)
        whole = {**groups.whole, **unscored}
        gone = least(able, found, self.layers)
        found = {g.name: found[g.name] for g in groups.prunable if g.name in found and g.name not in gone}
        if not found:
            raise nothing(whole)
        removed = {part: outputs for branch in able if branch.name in gone for part, outputs in branch.removed.items()}
        facts: dict[str, Any] = {}
        keep = self._keep(student, groups.prunable, found, context, whole, facts)
        return {"keep": keep, "removed": removed, "whole": whole, "facts": facts}

    def _keep(
        self,
        student: Student,
        groups: Sequence[Group],
        scores: dict[str, torch.Tensor],
        context: Context,
        whole: dict[str, str],
        facts: dict[str, Any],
    ) -> dict[str, list[int]]:
        """{group: channels to keep}; adds to `whole` and `facts` what a budget left whole and what was measured."""
        from edgekd.pipeline.judge import size
        from edgekd.pruning.edits import closed, replay
        from edgekd.pruning.groups import cut
        from edgekd.pruning.widths import best, choose

        if self.budget is None:
            assert self.ratio is not None
            steps = {group.name: group.step(context.channel_multiple) for group in groups}
            keep = choose(scores, self.ratio, self.scope, steps)
            if not self.layers and all(len(keep[name]) == len(values) for name, values in scores.items()):
                message = f"prune: with ratio {self.ratio}, every group rounds back to all of its channels"
                raise UserError(message, hint=f"a higher ratio; the channel multiple is {context.channel_multiple}")
            return keep
        from edgekd.pruning.budget import planned

        def narrowed(widths: Mapping[str, int]) -> nn.Module:
            network = student.network()
            replay(network, {"edit": "prune", "opened": closed(network), **cut(groups, best(scores, widths))})
            return network

        widths, idle, found = planned(
            context.pricing(),
            self.budget,
            scores,
            lambda widths: _validation(narrowed(widths), context),
            context.progress,
            self.allocation,
            lambda widths: size(narrowed(widths), student.example())["macs"],
        )
        facts.update(found)
        whole.update(idle)
        return best({name: values for name, values in scores.items() if name not in idle}, widths)

    def _criterion(self) -> Any:
        """A `Criterion`, `Learner` or `Trainer`, as its `needs` says."""
        from edgekd.errors import nearest
        from edgekd.pruning.scoring import NEEDS

        name, given = self._asked
        known = registry.fields_of("criteria", name)
        filled = {"density": 1 - self.ratio} if self.ratio is not None and "density" in known else {}
        if "density" in given:
            raise UserError(f'criteria "{name}": density: it is what `ratio` leaves', hint="ratio = 0.5")
        made = registry.build("criteria", name, {**given, **filled})
        if getattr(made, "needs", None) not in NEEDS:
            message = f"{registry.file_of('criteria', name)}: `needs` is {getattr(made, 'needs', None)!r}"
            raise UserError(message, hint=nearest("", NEEDS))
        return made

    def _train(
        self, network: nn.Module, student: Student, context: Context, training: Training, added: Added | None = None
    ) -> dict[str, Any]:
        from edgekd.training.objective import Objective
        from edgekd.training.train import train

        arguments = student.arguments
        objective = Objective(
            self.objective()[1], context.teacher, lambda seed: context.factory(seed, **arguments), added
        )
        label = "prune: recovery" if added is None else "prune: gates"
        return train(network, objective, context, training, label=label, latest=added is not None)


def _validation(network: nn.Module, context: Context) -> float:
    """The metric on the validation split."""
    from edgekd.training.train import logits_of

    inputs, targets = context.data().validation
    return context.metric(logits_of(network, inputs).numpy(), targets.numpy())
