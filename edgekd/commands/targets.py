"""`edgekd targets`: what is known of a device, each fact with the page that it is from."""

from __future__ import annotations

import json
import shutil
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.commands.store import Json

if TYPE_CHECKING:
    from edgekd.target import Target

targets_app = typer.Typer(help="Show the devices to compile for.", no_args_is_help=True, rich_markup_mode=None)


@targets_app.command("show")
def targets_show(
    name: Annotated[str, typer.Argument(help="a file of targets/, or the path of a TOML file", metavar="NAME")],
    as_json: Json = False,
) -> None:
    """Print all facts of a target, each with its source."""
    from edgekd.target import find_target

    target = find_target(name, Path())
    if as_json:
        print(json.dumps({**target.model_dump(mode="json"), "unmeasured": target.unmeasured}, indent=1))
        return
    rows = [(fact, said, target.source_of(fact)) for fact, said in facts_of(target)]
    width = max(len(fact) for fact, _, _ in rows)
    for (fact, said, source), after in zip_longest(rows, rows[1:], fillvalue=("", "", "")):
        print(f"{fact:<{width}}  {said}")
        if source and source != after[2]:
            print(f"{'':<{width}}    {source}")
    for remark in target.remarks():
        print(f"\nnote: {remark}")


def summary_of(target: Target) -> str:
    """The target in one line: chip, system, memory, way and the backends that this edgekd has."""
    from edgekd.units import format_bytes

    size = [format_bytes(target.memory)] if target.memory else []
    backends = ", ".join(target.usable) or "no backend here yet"
    return "; ".join([target.chip, target.triple, *size, target.reach.kind, backends])


def facts_of(target: Target) -> list[tuple[str, str]]:
    """Each fact that the target gives, in words; what it leaves out is left out."""
    facts = target.model_dump(mode="json", include=target.model_fields_set | {"reach"}, exclude={"sources"})
    facts["backends"] = [name if name in target.usable else f"{name} (not in this edgekd)" for name in target.backends]
    said = {key: _said(key, value) for key, value in facts.items()}
    compiler = f"{target.toolchain}-g++"
    if target.package and not target.toolchain.endswith(".cmake") and shutil.which(compiler) is None:
        said["package"] += f" ({compiler} is not here: apt-get install {target.package})"
    return [(key, text) for key, text in said.items() if text]


def _said(key: str, value: Any) -> str:
    from edgekd.units import format_bytes

    if key == "memory":
        return format_bytes(value) if value else ""
    if key == "reach":
        return ", ".join([value["kind"], *(f"{k} {_said(k, v)}" for k, v in value.items() if k != "kind" and v)])
    if isinstance(value, list):
        return ("; " if key in ("clock", "cooling") else ", ").join(value)
    if isinstance(value, dict):
        return "; ".join(f"of {name} {place or 'its own'}" for name, place in value.items())
    return " ".join(str(value).split())
