"""What a recipe may name: `edgekd list losses`, and what one of them is: `edgekd list losses kl`. Imports none of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd import registry
from edgekd.errors import UserError, nearest

DATA = ("targets", "calibration")


def rows(what: str) -> list[dict[str, str]]:
    """[{"name", "summary"}], losses with what they want of student and teacher. Raises UserError for another `what`."""
    if what in registry.FOLDERS:
        found = [{"name": name, "summary": summary} for name, summary in registry.summaries(what)]
        if what == "losses":
            return [{**row, "wants": str(registry.constant(what, row["name"], "wants") or "")} for row in found]
        return found
    from edgekd import target  # slow to import, and not needed to list what are files of Python
    from edgekd.commands.targets import summary_of

    if what == "targets":
        targets = [target.find_target(name, Path()) for name in target.names("targets")]
        return [{"name": t.name, "summary": summary_of(t)} for t in targets]
    if what == "calibration":
        recipes = [target.find_calibration(name, Path()) for name in target.names("calibration")]
        return [{"name": c.name, "summary": f"{c.count} from {c.source}, {c.observer}"} for c in recipes]
    raise UserError(f'nothing called "{what}" to list', hint=nearest(what, [*registry.FOLDERS, *DATA]))


def table(found: list[dict[str, str]]) -> str:
    """A line each; losses in groups, by what they want."""
    width = max((len(row["name"]) for row in found), default=0)
    lines: list[str] = []
    group = None
    for row in sorted(found, key=lambda row: row.get("wants", "")):
        if row.get("wants", "") != group and "wants" in row:
            group = row["wants"]
            lines += [*([""] if lines else []), f"on {group}:" if group else "other:"]
        lines.append(f"{'  ' if group is not None else ''}{row['name']:<{width}}  {row['summary']}")
    return "\n".join(lines)


def entry(what: str, name: str) -> dict[str, Any]:
    """{"name", "summary", "text", "fields"} of one. Raises UserError where there is none, or where `what` is data."""
    if what not in registry.FOLDERS:
        raise UserError(
            f'"{what}" are files of data: only their list can be shown', hint=nearest(what, registry.FOLDERS)
        )
    return registry.describe(what, name)


def page(found: dict[str, Any]) -> str:
    """One entry to read: what it is, its formula and source, and a line for each field."""
    lines = [f"{found['name']}: {found['summary']}", *(["", found["text"]] if found["text"] else [])]
    if found["fields"]:
        width = max(len(field["name"]) for field in found["fields"])
        lines.append("")
    for field in found["fields"]:
        default = "required" if field["default"] is None else field["default"]
        lines.append(f"{field['name']:<{width}}  {default:<9} {field['type']} {field['range']}".rstrip())
    return "\n".join(lines)
