"""Digests of what the user brings: the factories' sources, their arguments, the weights, the data, the metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekd import data, digest, registry
from edgekd.factory import Factory

if TYPE_CHECKING:
    from edgekd.recipe import Loaded
    from edgekd.sections import Made
    from edgekd.store import Store


def digests_of(recipe: Loaded, store: Store) -> dict[str, str]:
    """Of student, teacher, data and metric, each by the content of what it is made from; no torch for a known recipe."""
    values = recipe.values
    found = {"student": _source(recipe, values.student)}
    if values.teacher is not None:
        kind = digest.of_source(registry.file_of("teachers", values.teacher.use))
        found["teacher"] = digest.of_json([kind, _source(recipe, values.teacher)])
    section = values.data
    listed = [recipe.file(name) for name in section.files]
    found["data"] = data.digest_of(recipe.factory(section), section.arguments, listed, store)
    metric = section.metric
    found["metric"] = Factory(metric, recipe.folder).digest() if ":" in metric else metric
    return found


def _source(recipe: Loaded, section: Made) -> str:
    name = getattr(section, "weights", None)
    weights = digest.of_file(recipe.file(name)) if name else ""
    source = recipe.factory(section).digest() if section.factory else ""
    return digest.of_json([section.factory, source, section.arguments, weights])
