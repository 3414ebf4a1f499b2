"""What a stage's search tried, and what a budget's plan was measured to take, as the report tells it. Reads only what the stage kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from edgekd.search.space import said
from edgekd.toml import dumps
from edgekd.training.schedule import Training

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.step import Version

FOUND = "found.toml"
"""Beside the report: the recipe with what was found in place of each search."""

HEAD = "# What edgekd found for {}. Paths are relative to its folder: put this file there to run it.\n\n"


def of_report(plan: Plan, version: Version) -> dict[str, Any] | None:
    """The report's part on the search of a version's stage; None where it made none."""
    facts = plan.entries[version.name].facts if version.name in plan.entries else {}
    if "search" in facts:
        return _students(version.name, facts["search"])
    if "puzzle" in facts:
        return _blocks(version.name, facts["puzzle"])
    return _losses(version.name, facts["auto"]) if "auto" in facts else None


def pruned(plan: Plan, version: Version) -> dict[str, Any] | None:
    """The report's part on a stage that pruned under a budget; None of another one."""
    facts = plan.entries[version.name].facts if version.name in plan.entries else {}
    if version.stage != "prune" or "plan" not in facts:
        return None
    engine = facts["plan"]["engine"]
    limits = []
    for quantity in (one for one in ("latency", "size", "memory") if one in facts):
        error = facts[quantity]["table"][engine]["error"]
        told = {key: facts[quantity][key] for key in ("budget", "allowed", "whole", "predicted", "measured")}
        limits.append({"quantity": quantity, **told, "error": error["median"], "largest": error["largest"]})
    return {"version": version.name, "engine": engine, "plans": len(facts["plan"]["tried"]), "limits": limits}


def _students(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    tried = []
    for one in found["candidates"]:
        same = {key: one[key] for key in ("score", "low", "high", "engine", "parameters", "validation")}
        epochs = found["epochs"] if one["validation"] is not None else None
        more = {"latency": one["seconds"], "epochs": epochs, "verdict": _verdict(one, found), "reason": one["failed"]}
        tried.append({"what": said(one["arguments"]), **same, **more})
    return {
        "version": name,
        "kind": "student",
        "budget": found["budget"],
        "allowed": found["allowed"],
        "tried": tried,
        "found": FOUND,
    }


def _verdict(one: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if one["failed"]:
        return "failed"
    if one["validation"] is not None:
        return "chosen" if one["arguments"] == found["chosen"] else "trained"
    return "kept" if one["seconds"] <= found["allowed"] else "too slow"


def _blocks(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Each alternative with its fastest engine; the plan's own figures beside them."""
    tried = []
    for block in found["blocks"]:
        for number, one in enumerate(block["alternatives"], 1):
            row: dict[str, Any] = {
                "what": f"{block['name']}: {one['name']}",
                "score": -one["kl"],
                "parameters": one["parameters"],
            }
            if one["timed"]:
                engine = min(one["timed"], key=lambda kind: one["timed"][kind]["seconds"])
                latency = one["timed"][engine]
                ends = {end: latency["seconds"] / latency["share"] * latency[end] for end in ("low", "high")}
                row |= {"engine": engine, "latency": latency["seconds"], **ends}
            verdict = "chosen" if number == block["chosen"] else "failed" if one["failed"] else "kept"
            verdict = "too slow" if verdict == "kept" and one["left_out"] else verdict
            tried.append({**row, "verdict": verdict, "reason": one["left_out"]})
    same = {key: found[key] for key in ("budget", "allowed", "predicted", "measured")}
    return {"version": name, "kind": "blocks", **same, "tried": tried}


def _losses(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": name,
        "kind": "losses",
        "budget": f"{found['budget']} epochs",
        "tried": found["tried"],
        "found": FOUND,
    }


def found_recipe(plan: Plan) -> str | None:
    """The recipe as text, its searches replaced by what they found, trained as they trained it; None where there were none that a recipe
    can say.

    The values are those that were run, with every `--set`; paths are as they were, relative to the recipe's folder.
    """
    searched = [shown for v in plan.told if (shown := of_report(plan, v))]
    if not any(shown.get("found") for shown in searched):
        return None
    raw: dict[str, Any] = {**plan.recipe.raw, "student": dict(plan.recipe.raw["student"])}
    stages: list[dict[str, Any]] = []
    tables = plan.recipe.raw.get("stage", ())
    for index, (name, stage, table) in enumerate(zip(plan.trained, plan.recipe.stages, tables, strict=True)):
        facts = plan.entries[name].facts if name in plan.entries else {}
        if "search" in facts:
            raw["student"].pop("weights", None)  # of other arguments
            raw["student"] |= facts["search"]["chosen"]
            if [after["use"] for after in tables[index + 1 : index + 2]] != ["distill"]:
                stages.append(_as_distilled(stage, table))
        elif "auto" in facts:
            kept = {key: value for key, value in table.items() if key != "budget"}
            losses = [{"use": one["use"], **one} for one in facts["auto"]["losses"]]
            stages.append({**kept, "losses": losses})
        else:
            stages.append(table)
    return HEAD.format(plan.recipe.path.name) + dumps({**raw, "stage": stages})


def _as_distilled(search: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    """The training that a search gave the student which it found, where the stage after it gives none."""
    given = {field.name: table[field.name] for field in fields(Training) if field.name in table}
    return {"use": "distill", "losses": list(search.losses), **given, "epochs": search.epochs}
