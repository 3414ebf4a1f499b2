"""The recipe's JSON schema, made from the types that read it."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from edgekd import registry
from edgekd.recipe import trainable
from edgekd.sections import Recipe


def schema() -> dict[str, Any]:
    """The recipe's JSON schema, each stage's fields and each loss's included, so that editors complete and check it."""
    whole = Recipe.model_json_schema()
    stages = []
    for name in trainable():
        one = TypeAdapter(registry.find("stages", name)).json_schema()
        whole["$defs"].update(one.pop("$defs", {}))
        one["properties"] = {"use": {"const": name}, **one["properties"]}
        one["required"] = ["use", *one.get("required", [])]
        stages.append({**one, "additionalProperties": False, "title": name})
    whole["properties"]["stage"] = {"type": "array", "items": {"oneOf": stages}}
    for key, unit in (("latency_p90", "0.5 ms"), ("size", "200 kB")):
        whole["$defs"]["BudgetSection"]["properties"][key] = {"type": "string", "examples": [unit]}
    for section in ("StudentSection", "TeacherSection", "DataSection"):
        whole["$defs"][section]["additionalProperties"] = True
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgekd recipe", **whole}
