"""The recipe's JSON schema, made from the types that read it."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from edgekd import registry
from edgekd.recipe import trainable
from edgekd.sections import Recipe

NAMED = {"losses": "losses", "criterion": "criteria", "observer": "observers"}
"""Fields that name files of a registry."""


def _choices(field: dict[str, Any], names: list[str]) -> None:
    """Say which names a field takes; a list of tables has them in `use`, and may be one of several forms."""
    if "anyOf" in field:
        lists = [one for one in field["anyOf"] if one.get("type") == "array"]
        for one in lists:
            _choices(one, names)
        if not lists:  # a name, or a table that has it in `use`
            field["examples"] = names
    elif field.get("type") == "array":
        ends = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2}
        weight = {"oneOf": [{"type": "number", "exclusiveMinimum": 0}, ends]}
        table = {"use": {"type": "string", "examples": names}, "weight": weight}
        field["items"] = {"type": "object", "properties": table, "required": ["use"]}
    else:
        field["examples"] = names  # not an enum: a plugin may add one


def schema() -> dict[str, Any]:
    """The recipe's JSON schema, with each stage's fields and the names that they take, so that editors complete and check it."""
    whole = Recipe.model_json_schema()
    stages = []
    for name in trainable():
        one = TypeAdapter(registry.find("stages", name)).json_schema()
        whole["$defs"].update(one.pop("$defs", {}))
        one["properties"] = {"use": {"const": name}, **one["properties"]}
        one["required"] = ["use", *one.get("required", [])]
        stages.append({**one, "additionalProperties": False, "title": name})
    whole["properties"]["stage"] = {"type": "array", "items": {"oneOf": stages}}
    for name, folder in NAMED.items():
        for fields in [stage["properties"] for stage in stages] + [
            part.get("properties", {}) for part in whole["$defs"].values()
        ]:
            if name in fields:
                _choices(fields[name], registry.names(folder))
    units = (("latency_p90", "0.5 ms"), ("size", "200 kB"), ("memory", "60 MB"), ("cold_start", "50 ms"))
    for key, unit in units:
        whole["$defs"]["BudgetSection"]["properties"][key] = {"type": "string", "examples": [unit]}
    for section in ("StudentSection", "TeacherSection", "DataSection"):
        whole["$defs"][section]["additionalProperties"] = True
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgekd recipe", **whole}
