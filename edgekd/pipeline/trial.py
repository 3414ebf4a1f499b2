"""The trial: before the first stage trains, each stage's losses are computed once on a few samples, and inputs prepared.

A module that no network has, a teacher that gives NaN, a loss that reaches nothing: all is said in seconds, not hours later.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache, partial
from typing import TYPE_CHECKING

from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.teacher import Teacher


def try_losses(plan: Plan, names: Collection[str]) -> None:
    """Try the losses of the stages whose steps are called `names`, on student and teacher as given.

    Pruning leaves the names of modules as they are, so what fits now fits then. Raises UserError with the recipe's line.
    """
    from edgekd.teachers.module import Module
    from edgekd.training.objective import Objective

    network = cache(lambda: plan.student("student").network())

    @cache
    def teacher(own: bool) -> Teacher:
        if "teacher" in plan.entries and not own:
            return plan.roots.teacher(plan.entry("teacher").path)
        return Module(plan.student("student").network())  # of a stage whose teacher is the student before it

    for index, stage in enumerate(plan.recipe.stages):
        field, losses = stage.objective()
        if plan.trained[index] not in names or not losses:
            continue
        try:
            objective = Objective(losses, partial(teacher, getattr(stage, "teacher", "") == "student"))
            inputs, targets = (x[: max(2, objective.least)] for x in plan.roots.data().train)
            objective.prepare(network(), inputs, targets, plan.values.seed)
        except EdgekdError as error:
            raise plan.recipe.error(["stage", index, field], error.message, error.hint) from None


def try_processing(plan: Plan) -> None:
    """Whether what the data and the recipe say of preprocessing goes together, and with the data where it is in the engine.

    Raises UserError with the recipe's line.
    """
    from edgekd import tokenizer
    from edgekd.processing import processing_of
    from edgekd.signature import Signature

    try:
        before = processing_of(plan.values, plan.student("student").signature)["preprocessing"]
    except EdgekdError as error:
        raise plan.recipe.wrong_setting(error) from None
    try:
        tokenizer.fits(before, Signature.read(plan.entry("student").path), plan.recipe.file)
    except EdgekdError as error:
        raise plan.recipe.error(["preprocessing", "tokenizer"], error.message, error.hint) from None
    try:
        plan.fed("validation")
    except EdgekdError as error:
        raise plan.recipe.error(["targets", "preprocess"], error.message, error.hint) from None
