"""Running a plan: what the store has is taken, the rest is made, in order. An engine that fails costs no other.

Nor does a stage that refuses the student: what needs no result of it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgekd.errors import DeclinedError, EdgekdError, RefusedError, StoreError, UserError
from edgekd.pipeline import calibration, ranks
from edgekd.pipeline.engine_steps import add_race
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.step import Candidate, Step
from edgekd.pipeline.trial import try_losses, try_processing
from edgekd.reach import Remote
from edgekd.target import find_calibration
from edgekd.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekd.store import Entry


@dataclass
class Outcome:
    """What a run did: which steps were in the store already, and which engines failed and why."""

    cached: dict[str, bool] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def cached(plan: Plan) -> dict[str, bool]:
    """Which steps are in the store, whole."""
    return {name: plan.store.get(step.key) is not None for name, step in plan.steps.items()}


def roots(plan: Plan) -> None:
    """Make teacher and student as they are given, unless the store has them: what a table of the student needs."""
    for name in ("teacher", "student"):
        if name in plan.steps:
            step = plan.steps[name]
            plan.entries[name] = plan.store.make(step.key, step.label, step.make)


def run(plan: Plan, fresh: bool = False) -> Outcome:
    """Make every step that the store lacks (all of them, if `fresh`). Raises what a step raises; engines excepted."""
    outcome = Outcome()
    found = {name: None if fresh else plan.store.get(step.key) for name, step in plan.steps.items()}
    never = _never(plan, found)
    if any(entry is None and name not in never for name, entry in found.items()):
        _check(plan)
        _ask_devices(plan, found)
    races = [name for name in plan.steps if name.startswith("race on ")]
    waiting = [name for name in plan.trained if found[name] is None]
    compiles = [c.step("compile") for c in plan.candidates if found.get(c.step("compile"), "") is None]
    compiles = [name for name in compiles if name not in never]
    for name, step in plan.steps.items():
        if name in [*waiting, *compiles][:1]:
            try_processing(plan)
            try_losses(plan, waiting)
        if name not in races:
            _one(plan, outcome, name, step, found[name], fresh)
    for target in plan.targets:
        whole = plan.racing(target)
        left = [c for c in whole if c.step("compile") in plan.entries]
        name = f"race on {target.name}"
        while left:
            if len(left) < len(whole):
                add_race(plan, target, left)
                found[name] = None if fresh else plan.store.get(plan.steps[name].key)
            _one(plan, outcome, name, plan.steps[name], found[name], fresh)
            guilty = next((c for c in left if _ended_at(c, outcome.failed.get(name, ""))), None)
            if guilty is None:
                break
            outcome.failed[guilty.step("evaluate")] = outcome.failed.pop(name)
            for verb in ("compile", "evaluate"):
                plan.entries.pop(guilty.step(verb), None)
            left.remove(guilty)
    return outcome


def _never(plan: Plan, found: dict[str, Entry | None]) -> set[str]:
    """Steps that the store will never have, of engines whose program said why there is none; races are planned of the others."""
    told = {name for name, entry in found.items() if entry is not None and entry.facts.get("why_not")}
    never = {c.step("compile") for c in plan.candidates if c.version.program in told}
    for target in plan.targets:
        whole = plan.racing(target)
        left = [c for c in whole if c.step("compile") not in never]
        if left and len(left) < len(whole):
            name = add_race(plan, target, left)
            found[name] = plan.store.get(plan.steps[name].key)
    for name, step in plan.steps.items():
        if not never.isdisjoint(step.reads):
            never.add(name)
    return never


def _ended_at(candidate: Candidate, reason: str) -> bool:
    """Whether a race failed, for `reason`, while it was opening or warming up this engine: the others race without it."""
    first = reason.partition("\n")[0]
    return first.endswith((f"opening {candidate.name}", f"warming up {candidate.name}"))


def _check(plan: Plan) -> None:
    """Build what the recipe's tables name, so that a wrong value is said before any work; say what looks unwise."""
    ranks.check(plan)
    threads = plan.values.targets.threads
    for target in plan.targets:
        if threads > target.cores:
            plan.progress.say(f"  note: targets.threads = {threads}, {target.name} has {target.cores} core(s)")
        if plan.values.targets.tune and (target.unmeasured or target.reach.kind != "local"):
            plan.progress.say(f"  note: targets.tune: {target.name} is not this machine: nothing is tuned for it")
    for index, stage in enumerate(plan.recipe.stages):
        try:
            stage.check()
            if index == 0 and getattr(stage, "teacher", "") == "student" and plan.values.student.weights is None:
                raise UserError(
                    "teacher: the student before it is untrained", hint="a stage before it, or [student] weights"
                )
            if stage.calibration:
                calibration.check(find_calibration(stage.calibration, plan.recipe.folder), plan.roots)
        except EdgekdError as error:
            raise plan.recipe.error(["stage", index], error.message, error.hint) from None


def _ask_devices(plan: Plan, found: Mapping[str, Entry | None]) -> None:
    """Each device on which a race is still to run answers, before anything is trained for it, or an error is raised."""
    asked = [
        target
        for target in plan.targets
        if isinstance(target.reach, Remote) and (name := f"race on {target.name}") in plan.steps and found[name] is None
    ]
    if plan.ray and asked:
        from edgekd import farm

        farm.must_have(plan.ray, [target.name for target in asked])
        return
    for target in asked:
        from edgekd.devices.device import must_answer

        with plan.progress.task(f"ask {target.name}"):
            must_answer(target, plan.values.targets.threads)


def _one(plan: Plan, outcome: Outcome, name: str, step: Step, found: Entry | None, fresh: bool) -> None:
    an_engines = name.startswith(("tune ", "compile ", "evaluate ", "golden ", "race ", "rewritten on ", "placed on "))
    if any(before in outcome.failed for before in step.reads):
        outcome.failed[name] = outcome.failed[next(before for before in step.reads if before in outcome.failed)]
        return
    if found is not None:
        plan.progress.say(f"  {step.label:<44} cached, {format_seconds(found.seconds)} saved")
    outcome.cached[name] = found is not None
    if fresh:
        plan.store.remove(step.key)
    try:
        plan.entries[name] = found or plan.store.make(
            step.key,
            step.label,
            step.make,
            lambda: plan.progress.say(f"  {step.label}: another run is making it; waiting"),
        )
    except StoreError:
        raise
    except EdgekdError as error:
        if not an_engines and not isinstance(error, RefusedError):
            raise
        outcome.failed[name] = error.message
        plan.entries.pop(name.replace("evaluate ", "compile ", 1), None)
        how = "none" if isinstance(error, DeclinedError) else "failed"
        plan.progress.say(f"  {step.label}: {how}: {error.message.splitlines()[0]}")
