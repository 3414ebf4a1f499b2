"""Writes the tables of docs/report.md from the schema: `python tests/report/document.py`. A test says when to."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from edgekd.report.figures import VARIES, Part
from edgekd.report.schema import Report

PAGE = Path(__file__).parents[2] / "docs" / "report.md"
MARK = "<!-- from here on written by tests/report/document.py -->\n"
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}


def parts() -> list[type[Part]]:
    """Every model of the schema, each after the one that mentions it first."""
    found: list[type[Part]] = []

    def visit(model: type[Part]) -> None:
        if model not in found:
            found.append(model)
            for field in model.model_fields.values():
                for one in mentioned(field.annotation):
                    visit(one)

    visit(Report)
    return found


def mentioned(annotation: Any) -> list[type[Part]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return [annotation]
    return [one for inner in typing.get_args(annotation) for one in mentioned(inner)]


def kind(annotation: Any) -> str:
    """A field's type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind(one) for one in arguments)
    if origin is tuple:
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return f"{kind(arguments[1])} by name"
    if origin is typing.Literal:
        return ", ".join(f"`{one!r}`".replace("'", '"') for one in arguments)
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return NAMES[annotation]


def tables() -> str:
    """A section with a table for each model."""
    sections = []
    for model in parts():
        rows = [
            f"| `{field.alias or name}` | {kind(field.annotation)} | {'yes' if VARIES in field.metadata else ''} | {field.description} |"
            for name, field in model.model_fields.items()
        ]
        head = "| field | type | varies | what it is |\n| :-- | :-- | :-- | :-- |"
        sections.append(f"## {model.__name__}\n\n{model.__doc__}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text("utf-8").partition(MARK)[0] + MARK + "\n" + tables(), "utf-8")
