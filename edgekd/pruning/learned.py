"""Pruning by a criterion that trains: what stays is learned with the weights, held to a size or to a latency."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekd.errors import UserError
from edgekd.pruning.branches import branches
from edgekd.pruning.edits import replay
from edgekd.training.train import derive

if TYPE_CHECKING:
    from torch import nn

    from edgekd.pruning.budget import PruneBudget
    from edgekd.pruning.groups import Groups
    from edgekd.pruning.held import Held
    from edgekd.pruning.scoring import Trainer
    from edgekd.stage import Context
    from edgekd.student import Edit
    from edgekd.training.added import Added


def learned(
    criterion: Trainer,
    name: str,
    network: nn.Module,
    groups: Groups,
    opened: Sequence[str],
    budget: PruneBudget | None,
    context: Context,
    fit: Callable[[Added], dict[str, Any]],
    score: Callable[[nn.Module], float],
) -> dict[str, Any]:
    """{"keep": {group: channels}, "removed": parts of branches, "whole", "facts"}; `network`, its attention `opened`, is left trained.

    `fit(added)` trains it; `score` is the validation metric. Raises UserError where several processes train, and where a budget
    cannot be met.
    """
    if context.world().size > 1:
        message = f'prune: criterion "{name}" trains in one process, not in {context.world().size}'
        raise UserError(message, hint="devices = 1 in [train], or another criterion")
    inputs = context.data().train[0][:2]
    able = branches(network, groups.prunable, inputs)

    def score_at(edit: Edit) -> float:
        smaller = copy.deepcopy(network)
        replay(smaller, {part: value for part, value in edit.items() if part != "opened"})
        return score(smaller)

    held: Held | None = None
    if budget is not None and able:
        from edgekd.pruning.held import Held

        steps = {group.name: group.step(context.channel_multiple) for group in groups.prunable}
        held = Held(budget, groups.prunable, able, steps, opened, context.race, score_at, context.progress.say)
        criterion = replace(criterion, density=held.share)  # type: ignore[type-var]  # a dataclass, as every file of the registry
    seed = derive(context.seed, "prune gates")
    keep, gone, facts = criterion.train(
        network, groups.prunable, able, inputs, context.channel_multiple, seed, fit, held
    )
    removed = {part: outputs for branch in gone for part, outputs in branch.removed.items()}
    keep = {name: channels for name, channels in keep.items() if name not in {branch.name for branch in gone}}
    return {"keep": keep, "removed": removed, "whole": dict(groups.whole), "facts": facts}
