"""The first steps of a student that came as an ONNX file: taken in whole, and its samples. No torch.

The folder that each version's step makes is a program already, so that nothing is exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import digest, registry, samples, worker
from edgekd.backend import Signature
from edgekd.errors import UserError
from edgekd.pipeline.calibration import preview_of
from edgekd.pipeline.step import Step, Version

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.stage import Context

HERE = Path(__file__).parent
PACKAGE = HERE.parent
RUNTIME = "onnxruntime"
NOTHING = "nothing to quantize: no weighted operator is outside an If or a Loop"
READERS = ("onnx", "numpy")


def add_roots(plan: Plan) -> None:
    """The teacher if there is one, the student, and the samples that both are judged on."""
    for name in ("teacher", "student") if plan.values.teacher else ("student",):
        section = getattr(plan.values, name)
        source = plan.recipe.file(section.weights or "")
        key = plan.key(name, [], {}, [name], [HERE / "onnx_steps.py"], packages=(*READERS, RUNTIME))
        plan.add(name, Step(name, key, (name,), _taking(source)))
        precision = "int8" if _came_quantized(source) else "float32"
        plan.versions.append(Version(name, name, precision, is_program=True))
    fields = {"seed": plan.values.seed}
    key = plan.key("samples", ["student"], fields, ["data"], [HERE / "onnx_steps.py"], packages=("numpy",))
    plan.add("samples", Step("samples", key, ("student", "data"), lambda out: _make_samples(plan, out)))


def data_digest(plan_data: Mapping[str, Any], path: Path | None) -> str:
    """What the samples depend on besides the file and the seed."""
    found = {} if path is None else {path.name: digest.of_file(path)} if path.is_file() else digest.of_folder(path)
    code = digest.of_source(PACKAGE / "samples.py")
    return digest.of_json([dict(plan_data), code, digest.of_source(registry.file_of("sources", "images")), found])


def _came_quantized(source: Path) -> bool:
    from edgekd.onnx import file as onnx_file

    return bool(onnx_file.looked_at(source, onnx_file.quantized))


def _taking(source: Path) -> Any:
    def make(out: Path) -> dict[str, Any]:
        from edgekd.onnx import file as onnx_file

        model = onnx_file.load(source)
        onnx_file.fix_batch(model)
        precision = "int8" if onnx_file.quantized(model) else "float32"
        onnx_file.write_program(out, model, onnx_file.signature(model, str(source)), precision)
        request = {"backend": RUNTIME, "program": str(out), "target": {}}
        lines = worker.call("unsupported", request, env=worker.thread_env(1))["lines"]
        if lines:
            hint = "export it again with standard operators: a file is judged by what ONNX Runtime computes"
            raise UserError(f"{source}: ONNX Runtime cannot run it: {'; '.join(lines[:3])}", hint=hint)
        note = "" if onnx_file.quantizable(model) else "came quantized" if precision == "int8" else NOTHING
        return {"parameters": onnx_file.parameters(model), "note": note}

    return make


def _make_samples(plan: Plan, out: Path) -> dict[str, Any]:
    """Write `train.npz`, `validation.npz` and `test.npz`; returns their sizes, the metric, and what the report says of them."""
    from edgekd.onnx import file as onnx_file
    from edgekd.pipeline.engines import write_arrays
    from edgekd.report.preview import grid

    section, seed, file = plan.values.data, plan.values.seed, plan.recipe.file(plan.values.student.weights or "")
    folder = plan.entry("student").path
    signature = Signature.read(folder)
    path = plan.recipe.file(section.path) if section.path else None
    count = int(section.arguments.get("count", samples.COUNT))
    if path is None:
        limits = onnx_file.index_limits(onnx_file.load(folder / onnx_file.FILE))
        found = samples.noise(signature, limits, count, seed, str(file))
    elif path.is_dir():
        known = {k: v for k, v in section.arguments.items() if k != "count"}
        found = samples.images(path, signature, count, seed, known, plan.progress)
    else:
        found = samples.npz(path, signature, count, seed)
    metric = _metric(signature, found.labels, path)
    splits, said = samples.split(found, seed)
    notes = [*found.notes, *said]
    for note in notes:
        plan.progress.say(f"  samples: {note}")
    for name, part in splits.items():
        labels = {} if part.labels is None else {"labels": [part.labels]}
        write_arrays(out / f"{name}.npz", {"inputs": part.inputs, **labels})
    preview = grid(splits["train"].inputs[0][:64], {}) if path is not None and path.is_dir() else None
    if preview is not None:
        (out / "preview.png").write_bytes(preview)
    return {
        "splits": {name: len(part) for name, part in splits.items()},
        "metric": metric,
        "source": section.use,
        "synthetic": path is None,
        "shape": list(found.inputs[0].shape[1:]),
        "notes": notes,
        "previewed": preview is not None,
    }


def _metric(signature: Signature, labels: np.ndarray | None, path: Path | None) -> str:
    """What can be said of the outputs. Raises UserError for labels that do not fit them."""
    first = signature.outputs[0]
    classes = first.shape[1] if len(first.shape) == 2 and first.dtype.startswith("float") else None
    if labels is not None:
        if not isinstance(classes, int) or labels.min() < 0 or labels.max() >= classes:
            message = (
                f'{path}: labels from {labels.min()} to {labels.max()}; output "{first.name}" is {list(first.shape)}'
            )
            raise UserError(
                message, hint="labels count classes from 0, for a first output [batch, classes]; or leave them out"
            )
        return "accuracy"
    return "agreement" if len(signature.outputs) == 1 and isinstance(classes, int) and classes > 1 else "fidelity"


def arrays(plan: Plan, split: str, name: str = "inputs") -> list[np.ndarray]:
    """The samples of a split, an array an input."""
    from edgekd.pipeline.engines import read_arrays

    count = len(Signature.read(plan.entry("student").path).inputs) if name == "inputs" else 1
    return read_arrays(plan.entry("samples").path / f"{split}.npz", name, count)


def context(plan: Plan, work: Path, grid: str) -> Context:
    """What a stage on an ONNX file is given: the samples to calibrate on; there is no network, hence nothing else."""
    from edgekd.stage import Context

    def nothing(*_: Any) -> Any:
        raise UserError("an ONNX file has no network for torch")

    return Context(
        factory=nothing, data=nothing, metric=nothing, teacher=nothing, teacher_logits=nothing, calibration=nothing, pricing=nothing,
        observer="minmax", progress=plan.progress, work=work, seed=plan.values.seed, channel_multiple=1, grid=grid,
        arrays=lambda: arrays(plan, "train"),
    )  # fmt: skip


def calibration_sets(plan: Plan) -> list[dict[str, Any]]:
    """What an ONNX file was calibrated on, if it was quantized here: a set for each stage, all of the same samples."""
    entry = plan.entry("samples")
    facts = {k: entry.facts[k] for k in ("source", "synthetic", "shape", "notes")}
    return [
        {
            **facts,
            "version": stage,
            "recipe": plan.values.data.path or "zero-shot",
            "count": entry.facts["splits"]["train"],
            "seed": plan.values.seed,
            "options": {k: v for k, v in plan.values.data.arguments.items() if not isinstance(v, list)},
            "observer": plan.entry(stage).facts["observer"],
            "seconds": entry.seconds,
            "preview": preview_of(stage) if entry.facts["previewed"] else None,
        }
        for stage in plan.trained
        if stage in plan.entries
    ]
