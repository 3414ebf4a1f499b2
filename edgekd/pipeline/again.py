"""The same plan made again in another process, here or on another machine: from the recipe as it was read, and the store that both see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import registry
from edgekd.errors import EdgekdError, UserError
from edgekd.pipeline.plan import Plan
from edgekd.recipe import Loaded
from edgekd.sections import Recipe
from edgekd.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekd.progress import Progress


def request_of(plan: Plan, *names: str) -> dict[str, Any]:
    """What another process needs to make the plan again; the steps `names` have to be the same there."""
    loaded = plan.recipe
    return {
        "recipe": [str(loaded.path.resolve()), loaded.text, loaded.raw],
        "store": str(plan.store.folder.resolve()),
        "keys": {name: plan.steps[name].key for name in names},
        "plugins": registry.plugin_specs(),
    }


def plan_of(request: Mapping[str, Any], progress: Progress) -> Plan:
    """The plan there. Raises EdgekdError where a step of it is another than it was when the request was made."""
    for spec in request["plugins"]:
        registry.add_plugin(spec)
    path, text, raw = request["recipe"]
    plan = Plan(Loaded(Path(path), text, Recipe.model_validate(raw), raw), Store(Path(request["store"])), progress)
    for name, key in request["keys"].items():
        if plan.steps[name].key != key:
            raise EdgekdError(f"{name}: what the recipe reads has changed since it was started", hint="start it again")
    return plan


def take(plan: Plan, step: str, who: str) -> None:
    """Take what the store has of the steps before `step`. Raises UserError where `who` does not find what that reads."""
    for before, made in plan.steps.items():
        if before == step:
            break
        if (entry := plan.store.get(made.key)) is not None:
            plan.entries[before] = entry
        elif before in plan.steps[step].reads:
            message = f'{who} does not find "{before}" in {plan.store.folder}'
            raise UserError(message, hint="--store must be a folder that every process sees")
