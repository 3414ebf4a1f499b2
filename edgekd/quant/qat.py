"""Quantization-aware training of a prepared and calibrated graph, by the losses of a recipe, a teacher's or its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from edgekd.quant.guidance import with_student
from edgekd.quant.pt2e import freeze_batch_norm, learn_steps, restore, settle_steps
from edgekd.training import train as training
from edgekd.training.objective import Objective

if TYPE_CHECKING:
    from edgekd.quant.methods import Qat
    from edgekd.stage import Context, Use
    from edgekd.student import Student

__all__ = ["train"]


def train(prepared: GraphModule, student: Student, qat: Qat, losses: Sequence[Use], context: Context) -> dict[str, Any]:
    """Train in place, from the calibrated ranges; `student` is the float one. Returns the history, as `edgekd.training.train` does."""
    first_frozen = round(qat.epochs * (1 - qat.freeze))

    def on_epoch(epoch: int) -> None:
        if epoch >= first_frozen:
            freeze_batch_norm(prepared)

    if qat.teacher != "teacher":
        context = with_student(context, student, alone=qat.teacher == "student")
    if qat.step_size == "learned":
        learn_steps(prepared)
    exact = context.world().exact()  # the grids' steps are finer than what bfloat16 tells apart
    context = replace(context, world=lambda: exact)
    history = training.train(
        prepared,
        Objective(tuple(losses), context.teacher),
        context,
        qat,
        label="quantize",
        on_epoch=on_epoch,
        load=lambda _, tensors: restore(prepared, tensors),
    )
    settle_steps(prepared)
    return history
