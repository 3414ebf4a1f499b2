"""Digests of what the user brings: the factories' sources, their arguments, the weights, the data, the metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd import data, digest, registry
from edgekd.factory import Factory
from edgekd.pipeline import onnx_steps

if TYPE_CHECKING:
    from edgekd.recipe import Loaded
    from edgekd.sections import Made, TeacherSection
    from edgekd.store import Store


def digests_of(recipe: Loaded, store: Store, loader: Callable[[], Callable[[], object]]) -> dict[str, str]:
    """Of student, teacher, data and metric, each by the content of what it is made from; no torch for a known recipe."""
    values = recipe.values
    if values.student.use == "onnx":
        return _of_file(recipe)
    found = {"student": _source(recipe, values.student)}
    if values.teacher is not None:
        found["teacher"] = _teacher(recipe, values.teacher)
    section = values.data
    listed = [recipe.file(name) for name in section.files]
    found["data"] = data.digest_of(recipe.factory(section), section.arguments, listed, store, loader)
    metric = section.metric
    found["metric"] = Factory(metric, recipe.folder).digest() if ":" in metric else metric
    return found


def _of_file(recipe: Loaded) -> dict[str, str]:
    """Of a student that is an ONNX file: no factory has a source, and the samples are what `path` holds."""
    values = recipe.values
    found = {"student": _source(recipe, values.student)}
    if values.teacher is not None:
        found["teacher"] = _source(recipe, values.teacher)
    path = recipe.file(values.data.path) if values.data.path else None
    fields = {"use": values.data.use, **values.data.arguments}
    return {**found, "data": onnx_steps.data_digest(fields, path)}


def weight_files(path: Path) -> list[Path]:
    """The file of weights, and of an ONNX file those beside it that hold its tensors, as far as it can be read."""
    if path.suffix != ".onnx":
        return [path]
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        tensors = onnx.load(path, load_external_data=False).graph.initializer
    except Exception:  # said by the step that reads it, which names the file
        return [path]
    beside = {path.parent / ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
    return [path, *sorted(p for p in beside if p.is_file())]


def _teacher(recipe: Loaded, section: TeacherSection) -> str:
    """Its kind's source and what that is made from; of a command also the files of the recipe's folder that it names."""
    kind = digest.of_source(registry.file_of("teachers", section.use))
    words = section.arguments.get("command", ()) if section.made_from == "folder" else ()
    named = [recipe.file(word) for word in words if isinstance(word, str)]
    files = [digest.of_file(path) for path in named if path.is_file()]
    adapted = [section.classes, section.resize] if section.classes or section.resize else []
    return digest.of_json(
        [kind, _source(recipe, section), files, adapted, [_teacher(recipe, member) for member in section.members]]
    )


def _source(recipe: Loaded, section: Made) -> str:
    name = getattr(section, "weights", None)
    weights = [digest.of_file(path) for path in weight_files(recipe.file(name))] if name else []
    source = recipe.factory(section).digest() if section.factory else ""
    return digest.of_json([section.factory, source, section.arguments, weights])
