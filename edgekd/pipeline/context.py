"""What a stage is given when it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from edgekd.errors import UserError
from edgekd.pipeline.roots import Roots
from edgekd.stage import Context
from edgekd.student import write_tensors

if TYPE_CHECKING:
    from edgekd.latency.table import Pricing
    from edgekd.progress import Progress
    from edgekd.search.space import Variants
    from edgekd.store import Store
    from edgekd.target import Calibration
    from edgekd.teacher import Teacher

BATCH = 64


def stage_context(
    roots: Roots,
    *,
    teacher: Callable[[], Teacher],
    logits_key: Callable[[str], str],
    calibration: Calibration | None,
    inputs: Callable[[], torch.Tensor],
    pricing: Callable[[], Pricing],
    variants: Callable[[], Variants],
    store: Store,
    work: Path,
    progress: Progress,
    channel_multiple: int,
    grid: str,
) -> Context:
    """A Context whose teacher, data and logits are made when first asked for; `inputs` are those to calibrate on."""
    teacher = cache(teacher)

    def teacher_logits(name: str, inputs: Callable[[], torch.Tensor]) -> torch.Tensor:
        def make(out: Path) -> None:
            write_tensors(out / "logits.safetensors", {"logits": _logits(teacher(), inputs(), progress, name)})

        entry = store.make(logits_key(name), f"teacher outputs: {name}", make)
        return load_file(entry.path / "logits.safetensors")["logits"]

    def batches() -> list[torch.Tensor]:
        if calibration is None:
            raise UserError("this stage names no calibration recipe", hint='calibration = "train-512"')
        return list(inputs().split(BATCH))

    return Context(
        factory=roots.student_factory,
        data=roots.data,
        metric=roots.metric(),
        teacher=teacher,
        teacher_logits=teacher_logits,
        calibration=batches,
        pricing=pricing,
        observer=calibration.observer if calibration else "minmax",
        progress=progress,
        work=work,
        seed=roots.values.seed,
        channel_multiple=channel_multiple,
        grid=grid,
        variants=variants,
    )


def _logits(teacher: Teacher, inputs: torch.Tensor, progress: Progress, name: str) -> torch.Tensor:
    with progress.task(f"teacher: {name}", len(inputs)) as task:
        found = []
        for batch in inputs.split(teacher.chunk):
            found.append(teacher.outputs(batch).float())
            task.advance(len(batch))
    logits = torch.cat(found)
    if not bool(torch.isfinite(logits).all()):
        first = int((~torch.isfinite(logits)).any(1).nonzero()[0])
        raise UserError(
            f"the teacher's output for input {first} of {name} is NaN or infinite", hint="check its weights"
        )
    return logits
