"""`--set distill.epochs=2`: one field of a recipe, overridden before it is read."""

from __future__ import annotations

import tomllib
from typing import Any

from edgekd.errors import UserError, nearest
from edgekd.sections import Recipe

SET_HINT = "as in --set distill.epochs=2"


def apply(raw: dict[str, Any], override: str) -> None:
    """Apply "SECTION.KEY=VALUE" or "STAGE.KEY=VALUE" in place; VALUE is TOML, or a bare word."""
    path, equals, text = override.partition("=")
    head, *rest = path.strip().split(".")
    if not equals or (not rest and head != "seed"):
        raise UserError(f"--set {override}: write SECTION.KEY=VALUE", hint=SET_HINT)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if not rest:
        raw[head] = value
        return
    matching = [s for s in raw.get("stage", []) if s.get("use") == head]
    if not matching and head not in Recipe.model_fields:
        known = [*Recipe.model_fields, *(s.get("use", "") for s in raw.get("stage", []))]
        raise UserError(f'--set {override}: no section or stage "{head}" in the recipe', hint=nearest(head, known))
    for table in matching or [raw.setdefault(head, {})]:
        for key in rest[:-1]:
            table = table.setdefault(key, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise UserError(f"--set {override}: {path.strip().rpartition('.')[0]} is not a table", hint=SET_HINT)
        table[rest[-1]] = value
