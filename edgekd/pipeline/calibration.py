"""The calibration set of a stage as a step of its own: made once, checked, previewed, kept in the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest, registry
from edgekd.errors import UserError
from edgekd.pipeline.step import Step

if TYPE_CHECKING:
    import torch

    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.roots import Roots
    from edgekd.source import Given, Source
    from edgekd.student import Student
    from edgekd.target import Calibration

INPUTS, PREVIEW = "inputs.safetensors", "preview.png"


def step_of(stage: str) -> str:
    """The name of the step that makes the inputs which the stage of that name calibrates on."""
    return f"calibration for {stage}"


def preview_of(stage: str) -> str:
    """The file beside the report that shows them."""
    return f"calibration-{stage.replace(' ', '-')}.png"


def digests_of(recipe: Calibration) -> dict[str, str]:
    """What the inputs depend on besides the student and the data: the recipe, the source's file, what `path` holds."""
    found = {
        "calibration": digest.of_json(recipe.inputs),
        "source": digest.of_source(registry.file_of("sources", recipe.source)),
    }
    if recipe.path:
        path = Path(recipe.path)
        found["path"] = digest.of_file(path) if path.is_file() else digest.of_json(digest.of_folder(path))
    return found


def source_of(recipe: Calibration) -> Source:
    """The source that the recipe names, with its options. Raises UserError for an option of the wrong type or range."""
    made: Source = registry.build("sources", recipe.source, recipe.options)
    return made


def check(recipe: Calibration, roots: Roots) -> None:
    """What can be known of a calibration recipe before any work. Raises UserError."""
    from edgekd.source import checked
    from edgekd.synthesis.shapes import black_box, no_teacher

    source, teacher = source_of(recipe), roots.values.teacher
    if source.asks_teacher() and teacher is None:
        raise no_teacher(recipe)
    if source.asks_teacher() and teacher is not None and teacher.use != "module":
        raise black_box(recipe)
    checked(source, recipe, roots.student_factory)


def make(out: Path, recipe: Calibration, student: Student, given: Given) -> dict[str, Any]:
    """Write the inputs, and a preview where they are images; returns what the report says of them."""
    from edgekd.report.preview import grid
    from edgekd.student import write_tensors

    source = source_of(recipe)
    inputs = source.inputs(student, recipe, given)
    notes = _checked(inputs, student, recipe)
    for note in notes:
        given.progress.say(f'  calibration "{recipe.name}": {note}')
    write_tensors(out / INPUTS, {"inputs": inputs})
    preview = grid(inputs[:64].numpy(), student.signature["preprocessing"])
    if preview is not None:
        (out / PREVIEW).write_bytes(preview)
    return {
        "recipe": recipe.name,
        "source": recipe.source,
        "synthetic": source.synthetic,
        "count": len(inputs),
        "seed": recipe.seed,
        "shape": list(inputs.shape[1:]),
        "options": recipe.options,
        "notes": notes,
        "previewed": preview is not None,
    }


def _checked(inputs: torch.Tensor, student: Student, recipe: Calibration) -> list[str]:
    """What is odd about the inputs, in words. Raises UserError for inputs that no range can be drawn from."""
    import torch

    where, expected = f'calibration "{recipe.name}": source "{recipe.source}"', student.example(1)
    if inputs.shape[1:] != expected.shape[1:] or inputs.dtype != expected.dtype or not len(inputs):
        message = f"{where} gives {inputs.dtype} {list(inputs.shape)}"
        raise UserError(
            message, hint=f"the student takes {expected.dtype} [n, {', '.join(map(str, expected.shape[1:]))}]"
        )
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        first = int((~torch.isfinite(inputs.flatten(1))).any(1).nonzero()[0])
        raise UserError(f"{where}: input {first} has NaN or infinite values", hint="remove it, or mend the source")
    rows = inputs.flatten(1)
    low, high = rows.amin(1), rows.amax(1)
    if float(low.min()) == float(high.max()):
        message = (
            f"{where}: every value of its {len(inputs)} inputs is {float(low[0]):g}: no range can be drawn from that"
        )
        raise UserError(message, hint="calibrate on inputs like those that the student will meet")
    notes = []
    if len(inputs) < recipe.count:
        notes.append(f"{recipe.count} inputs were asked for, there are {len(inputs)}")
    if len(inputs) == 1:
        notes.append("a single input: ranges are those of this one alone")
    constant = int((low == high).sum())
    if constant and rows.shape[1] > 1:
        notes.append(f"{constant} of {len(inputs)} inputs hold one value only")
    return notes


def step(plan: Plan, name: str, key: str, recipe: Calibration, before: str) -> Step:
    """The step that makes the inputs for the student of the step `before`."""

    def made(out: Path) -> dict[str, Any]:
        return make(out, recipe, plan.student(before), given_by(plan, key))

    data = () if registry.flag("sources", recipe.source, "synthetic") else ("data",)
    return Step(name, key, (before, *data, "calibration"), made)


def read(folder: Path) -> torch.Tensor:
    """The inputs [count, ...] that `make` wrote."""
    from safetensors.torch import load_file

    return load_file(folder / INPUTS)["inputs"]


def given_by(plan: Plan, key: str) -> Given:
    """What a source of this plan may ask for; `key` is that of the step that makes its inputs."""
    from edgekd.source import Given

    has_teacher = "teacher" in plan.steps
    return Given(
        data=plan.roots.data,
        teacher=(lambda: plan.roots.teacher(plan.entry("teacher").path)) if has_teacher else None,
        progress=plan.progress,
        work=plan.store.work(key),
    )
