"""Put cheaper blocks in place of the student's own: trained and scored one by one, chosen together by measured time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from edgekd.blocks.budget import BlockBudget
from edgekd.errors import EdgekdError
from edgekd.stage import Context, Stage

if TYPE_CHECKING:
    from torch import nn

    from edgekd.blocks.budget import Option, Timed
    from edgekd.blocks.find import Block
    from edgekd.blocks.library import Learned
    from edgekd.blocks.programme import Plan
    from edgekd.latency.table import Kind
    from edgekd.student import Student

__all__ = ["Puzzle"]


@dataclass(frozen=True, kw_only=True)
class Puzzle(Stage):
    """`budget = { latency = "0.5x" }` (or "1.2 ms"; also `size = "200 kB"` of the engine, `memory = "60 MB"` of the process that runs
    it) is kept by putting in cheaper blocks.

    The student is the parent. For each of its blocks (all that are found, or `blocks` by their modules' names) there are
    alternatives: no block, one of a part of its width or heads, a separable or a single convolution, a linear layer. Each learns
    for `epochs` to give what the block gives for what it is given, on `samples` of the training split; then, alone in the block's
    place, it is scored by the KL divergence of the outputs from the parent's, on validation, and timed as a compiled engine.
    An integer programme chooses one for each block: the least sum of divergences within the budget. One that buys no measured
    time is never chosen. What is trained, scored and timed is kept for other budgets. A distill stage after it lets the blocks
    grow together.
    Source: Bercovich et al. 2024 (Puzzle), arXiv 2411.19146.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"data", "target"})
    teacher: ClassVar[str] = "student"

    budget: BlockBudget
    blocks: tuple[str, ...] = ()
    samples: Annotated[int, Field(ge=4)] = 2048
    epochs: Annotated[int, Field(ge=1)] = 8
    batch: Annotated[int, Field(ge=2)] = 64
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3e-3

    @property
    def races(self) -> bool:
        return True

    @property
    def weighed(self) -> bool:
        return self.budget.memory is not None

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns {"puzzle": the blocks with their alternatives, what was predicted and measured}, size and metric before and after.

        Raises UserError for a student without blocks, and for a budget that cannot be met, with the least latency and its metric.
        """
        from edgekd.blocks.budget import planned
        from edgekd.blocks.library import assembled, library
        from edgekd.blocks.local import Steps
        from edgekd.pipeline.judge import size
        from edgekd.student import save_next

        parent, example = student.network(), student.example()
        found = library(student, context, self.blocks, self.samples, Steps(self.epochs, self.batch, self.lr))
        options, whole = _timed(found, context)

        def chosen(plan: Plan) -> list[Learned]:
            return [of[index - 1] for (_, of), index in zip(found, plan, strict=True) if index]

        def measure(plan: Plan) -> Mapping[Kind, Timed]:
            rows, failed = context.race([[], assembled(student, chosen(plan))[1]], "puzzle: the plan")
            if failed:
                raise EdgekdError(f"puzzle: the plan cannot be compiled: {failed[1]}", hint="name fewer `blocks`")
            return rows[1]

        def score_at(plan: Plan) -> float:
            return _validation(assembled(student, chosen(plan))[0], context)

        names = [block.name for block, _ in found]
        plan, told = planned(names, options, whole, self.budget, measure, score_at, context.progress)
        network, edits = assembled(student, chosen(plan))
        save_next(out, student, network.state_dict(), *edits)
        return {
            "puzzle": {**told, "blocks": _said(found, options, told.pop("left_out"), plan)},
            "before": {**size(parent, example), "validation": _validation(parent, context)},
            "replaced": {**size(network, example), "validation": _validation(network, context)},
        }


def _timed(
    found: Sequence[tuple[Block, Sequence[Learned]]], context: Context
) -> tuple[list[list[Option]], Mapping[Kind, Timed]]:
    """Each alternative with its loss and its time, measured in one race, and what the whole student takes."""
    from edgekd.blocks.budget import Option

    flat = [one for _, of in found for one in of]
    rows, failed = context.race([[], *(one.alternative.edits for one in flat)], f"puzzle: {len(flat)} alternatives")
    places = iter(range(1, len(rows)))
    options = [
        [
            Option(one.alternative.name, one.facts["kl"], rows[place], "" if rows[place] else failed[place])
            for one, place in zip(of, places, strict=False)
        ]
        for _, of in found
    ]
    return options, rows[0]


def _said(
    found: Sequence[tuple[Block, Sequence[Learned]]],
    options: Sequence[Sequence[Option]],
    why: Sequence[Sequence[str]],
    plan: Plan,
) -> list[dict[str, Any]]:
    """What is known of every block and its alternatives, as plain values; "chosen" is the number of one, 0 the block itself."""
    told = []
    for (block, of), priced, reasons, index in zip(found, options, why, plan, strict=True):
        rows = [
            {
                "name": option.name,
                **one.facts,
                "timed": {
                    kind.name: {**vars(timed.latency), "size": timed.size} for kind, timed in option.timed.items()
                },
                "failed": bool(option.failed),
                "left_out": reason,
            }
            for one, option, reason in zip(of, priced, reasons, strict=True)
        ]
        told.append({"name": block.name, "form": block.form, "chosen": index, "alternatives": rows})
    return told


def _validation(network: nn.Module, context: Context) -> float:
    """The metric on the validation split."""
    from edgekd.training.train import logits_of

    inputs, targets = context.data().validation
    return context.metric(logits_of(network, inputs).numpy(), targets.numpy())
