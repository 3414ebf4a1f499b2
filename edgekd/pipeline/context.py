"""What a stage is given when it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from edgekd.errors import UserError
from edgekd.pipeline.roots import Roots
from edgekd.stage import Context
from edgekd.student import write_tensors

if TYPE_CHECKING:
    from edgekd.blocks.budget import Timed
    from edgekd.latency.layer_times import Times
    from edgekd.latency.table import Kind, Pricing
    from edgekd.progress import Progress
    from edgekd.search.space import Variants
    from edgekd.store import Entry, Store
    from edgekd.student import Edit
    from edgekd.target import Calibration
    from edgekd.teacher import Teacher
    from edgekd.training.world import World

BATCH = 64
KEPT = "the views that it has answered are kept, and the epochs that are finished: the same command goes on from there"


def stage_context(
    roots: Roots,
    *,
    teacher: Callable[[], Teacher],
    logits_key: Callable[[str], str],
    calibration: Calibration | None,
    inputs: Callable[[], torch.Tensor],
    pricing: Callable[[], Pricing],
    times: Callable[[], Times],
    variants: Callable[[], Variants],
    race: Callable[[Sequence[Sequence[Edit]], str], tuple[list[dict[Kind, Timed]], dict[int, str]]],
    part_key: Callable[[Any], str],
    store: Store,
    work: Path,
    progress: Progress,
    channel_multiple: int,
    grid: str,
    world: World,
) -> Context:
    """A Context whose teacher, data and logits are made when first asked for; `inputs` are those to calibrate on.

    `part_key(of)`: the key of what a stage keeps of its own, from what that depends on besides student and data.
    Of several processes (`world`) each asks the teacher about its part, and the first one keeps the answers in the store.
    """
    teacher = cache(teacher)

    def answered(name: str, inputs: torch.Tensor, each: bool) -> torch.Tensor:
        """Each process asks the teacher about its part."""
        before = world.bounds(len(inputs))[0] if len(inputs) >= world.size else 0
        return world.shared(lambda part: _logits(teacher(), part, progress, name, before, each), inputs)

    def teacher_logits(name: str, inputs: Callable[[], torch.Tensor], each: bool = False) -> torch.Tensor:
        name = f"{name}, each" if each else name
        key, known = logits_key(name), None

        def make(out: Path) -> None:
            logits = answered(name, inputs(), each) if known is None else known
            write_tensors(out / "logits.safetensors", {"logits": logits})

        if world.size > 1 and not world.agreed(lambda: store.get(key) is not None):
            known = answered(name, inputs(), each)
            if not world.first:
                return known
        if not world.first and store.get(key) is None:
            message = f'process {world.rank + 1} of {world.size} does not find what the teacher says of "{name}"'
            raise UserError(message, hint="--store must be a folder that every process sees")
        entry = store.make(key, f"teacher outputs: {name}", make)
        return load_file(entry.path / "logits.safetensors")["logits"]

    def kept(label: str, of: Any, make: Callable[[Path], dict[str, Any] | None]) -> Entry:
        return store.make(part_key(of), label, make)

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
        world=lambda: world,
        accumulate=roots.values.train.accumulate,
        fused=roots.values.train.fused,
        times=times,
        variants=variants,
        race=race,
        kept=kept,
    )


def _logits(
    teacher: Teacher, inputs: torch.Tensor, progress: Progress, name: str, before: int, each: bool
) -> torch.Tensor:
    """The teacher's logits [n, classes], or each one's [n, members, classes], of inputs [n, ...] that follow `before` others.

    Raises UserError, with the inputs that they were, for a teacher that fails, or gives what is not finite.
    """
    asked = teacher.each if each else teacher.outputs
    with progress.task(f"teacher: {name}", len(inputs)) as task:
        found = []
        for batch in inputs.split(teacher.chunk):
            try:
                found.append(asked(batch).float())
            except UserError as error:
                first = before + sum(map(len, found))
                message = f"{error.message} (inputs {first} to {first + len(batch) - 1} of {name})"
                raise UserError(message, hint="; ".join(filter(None, [error.hint, KEPT]))) from error
            task.advance(len(batch))
    logits = torch.cat(found)
    if not bool(torch.isfinite(logits).all()):
        first = before + int((~torch.isfinite(logits)).flatten(1).any(1).nonzero()[0])
        raise UserError(
            f"the teacher's output for input {first} of {name} is NaN or infinite", hint="check its weights"
        )
    return logits
