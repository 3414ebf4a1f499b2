"""What a run found, as the report's content. Reads only what the steps kept; imports no torch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import edgekd
from edgekd import digest
from edgekd.backend import open_backend
from edgekd.choose import choose
from edgekd.latency import energy
from edgekd.ledger import first_loss
from edgekd.pipeline import layers, onnx_steps, searches, tune_steps
from edgekd.pipeline.calibration import preview_of, step_of
from edgekd.pipeline.candidates import candidate_of, engine_facts, noise_of, simulated
from edgekd.pipeline.place_steps import left_as_it_came
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import Outcome
from edgekd.pipeline.step import Candidate as Planned
from edgekd.pipeline.step import Version, judged, package_version
from edgekd.quant.precision import why_simulated
from edgekd.report.figures import Ratio
from edgekd.report.schema import Candidate, LedgerRow, Report
from edgekd.target import Target, find_target

ROWS = {
    "student": "float student",
    "search": "searched",
    "distill": "distilled",
    "puzzle": "blocks replaced",
    "prune": "pruned",
    "quantize_onnx": "quantized",
}
PACKAGES = ("torch", "torchao", "torch-pruning", "numpy", "onnx", "onnxscript", "onnxruntime")


def report_of(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """The content of report.json, checked against its schema."""
    values = plan.values
    splits = plan.entry("samples" if plan.of_file else "student").facts["splits"]
    rows = _ledger(plan)
    lost = first_loss(rows, plan.reference.name, values.budget.metric_drop, splits["test"], plan.metric)
    content = {
        "schema": 1,
        "edgekd": edgekd.__version__,
        "name": plan.recipe.name,
        "seed": values.seed,
        "metric": {"name": plan.metric, "reference": plan.reference.name},
        "splits": splits,
        "budget": values.budget.model_dump(),
        "ledger": [row.model_dump() for row in rows],
        "first_loss": lost.model_dump() if lost else None,
        "targets": [_target(plan, target, outcome) for target in plan.targets],
        "calibration": onnx_steps.calibration_sets(plan)
        if plan.of_file
        else [_calibration(plan, s) for s in plan.trained if s in plan.calibrations],
        "search": [shown for v in plan.told if (shown := searches.of_report(plan, v))],
        "pruned": [shown for v in plan.told if (shown := searches.pruned(plan, v))],
        "sensitivity": [shown for v in plan.versions if (shown := layers.of_report(plan, v))],
        "plan": [
            {
                "step": name,
                "label": plan.steps[name].label,
                "key": plan.steps[name].key,
                "seconds": plan.entries[name].seconds,
                "cached": hit,
                "reads": plan.steps[name].reads,
            }
            for name, hit in outcome.cached.items()
            if name in plan.entries
        ],
        "provenance": provenance(plan),
    }
    return Report.model_validate(content).model_dump(mode="json", by_alias=True)


def provenance(plan: Plan) -> dict[str, Any]:
    """Machine, versions, digests and time."""
    host = find_target("host", plan.recipe.folder)
    digests = {"recipe": digest.of_json(plan.recipe.raw), **plan.digests, **tune_steps.digests_of(plan)}
    runtimes = {k: v for c in plan.candidates for k, v in open_backend(c.backend).versions().items()}
    return {
        "machine": {
            "chip": host.chip,
            "cores": host.cores,
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
        },
        "versions": {"edgekd": edgekd.__version__, **{name: package_version(name) for name in PACKAGES}, **runtimes},
        "digests": digests,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _calibration(plan: Plan, stage: str) -> dict[str, Any]:
    """What the stage calibrated on; the quantize stage says which observer it took."""
    recipe, entry = plan.calibrations[stage], plan.entry(step_of(stage))
    facts = {k: entry.facts[k] for k in ("source", "synthetic", "count", "seed", "shape", "options", "notes")}
    return {
        **facts,
        "version": stage,
        "recipe": recipe.name,
        "observer": plan.entry(stage).facts.get("observer", recipe.observer),
        "seconds": entry.seconds,
        "preview": preview_of(stage) if entry.facts["previewed"] else None,
    }


def _ledger(plan: Plan) -> list[LedgerRow]:
    """A row for each state of the network, in the order of the pipeline, all on the same test samples."""
    rows: list[dict[str, Any]] = []
    sizes: Mapping[str, Any] = {}
    made = [version for version in plan.told if version.name in plan.entries]
    for version in made:
        if version.quantized and not version.is_program:
            program = "simulated" if version.simulated else "exported"
            note = why_simulated(version.precision) if version.simulated else ""
            for kind, row in (("fake-quantized", "fake-quantized"), ("program", program)):
                facts = plan.entry(judged(version, kind)).facts
                extra = {**{k: sizes[k] for k in ("parameters", "macs")}, "note": note if kind == "program" else ""}
                rows.append(_row(row, version, "torch", facts, extra))
            continue
        facts = plan.entry(judged(version, "network")).facts
        sizes = {k: facts[k] for k in ("parameters", "macs", "bytes")}
        engine = _engine(plan, version)
        latency = _latency(plan, engine) if engine else None
        untrained = version.name == "student" and version not in plan.raced
        note = "as given, untrained" if untrained else f"latency on {engine.backend}" if engine and latency else ""
        name = ROWS.get(version.stage, version.name)
        if version.is_program and version.name == "student":
            name = f"{'quantized' if version.quantized else 'float'} file"
        name += version.name.removeprefix(version.stage) if version.stage in ROWS else ""
        note = "; ".join(filter(None, (note, plan.entry(version.name).facts.get("note"), noise_of(facts))))
        runs_in = "onnxruntime" if version.is_program or version.is_file else _computes(plan, version)
        rows.append(_row(name, version, runs_in, facts, {**sizes, "latency": latency, "note": note}))
    last = made[-1]
    engine = _engine(plan, last)
    if engine is not None:
        facts = plan.entry(engine.step("evaluate")).facts
        extra = {
            **sizes,
            "bytes": engine_facts(plan, engine)["bytes"],
            "latency": _latency(plan, engine),
            "note": noise_of(facts),
        }
        rows.append(_row("compiled", last, engine.backend, facts, extra))
    for before, after in pairwise(rows):
        after["flips"] = _flips(before.pop("right"), after["right"])
    rows[-1].pop("right")
    return [LedgerRow.model_validate(row) for row in rows]


def _computes(plan: Plan, version: Version) -> str:
    """What computes a version's outputs: torch, or the kind of teacher that a black box is."""
    teacher = plan.values.teacher
    return teacher.use if version.black_box and teacher is not None and teacher.made_from != "network" else "torch"


def _row(
    name: str, version: Version, runs_in: str, facts: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    agreement = facts["agreement"]
    return {
        "row": name,
        "version": version.name,
        "runs_in": runs_in,
        "metric": facts["metric"]["test"],
        "metric_validation": facts["metric"]["validation"],
        "agreement": agreement["test"] if agreement else None,
        "right": facts["right"],
        **extra,
    }


def _flips(before: str | None, after: str | None) -> dict[str, int] | None:
    """Samples gone from wrong to right and from right to wrong, from two rows of bits; None of what is not right or wrong."""
    if before is None or after is None:
        return None
    first, second = int(before or "0", 16), int(after or "0", 16)
    return {"better": (second & ~first).bit_count(), "worse": (first & ~second).bit_count()}


def _engine(plan: Plan, version: Version) -> Planned | None:
    """The version's engine on the first target that has one."""
    return next((c for c in plan.candidates if c.version == version and c.step("evaluate") in plan.entries), None)


def _latency(plan: Plan, candidate: Planned) -> dict[str, Any] | None:
    race = plan.entries.get(f"race on {candidate.target.name}")
    found: dict[str, Any] | None = race.facts["latency"].get(candidate.name) if race else None
    return found


def _notes(race: Mapping[str, Any]) -> list[str]:
    """What to know of where a race ran."""
    found = ["the machine was busy while measuring: intervals are wider"] if race["disturbed"] else []
    device = race.get("device")
    if device is None:
        return found
    degrees, hertz = device["celsius"], device["mhz"]
    said = [f"{degrees[0]:.0f} to {degrees[1]:.0f} °C"] if degrees else []
    said += [f"{hertz[0]} to {hertz[1]} MHz"] if hertz else []
    said += [f"governor {', '.join(device['governors'])}"] if device["governors"] else []
    said += [f"connected again {device['resumed']} times"] if device["resumed"] else []
    found.append("; ".join([f"measured on {device['label']} by {device['runner']}", *said]))
    found.append("scores are those of the engines run here")
    for name, outputs in device["outputs"].items():
        if outputs["top1"] < 1:
            share = f"{outputs['top1']:.0%} of the golden inputs get the same class there as here"
            found.append(f"{name}: {share}, largest difference {outputs['difference']:.3g}")
    return found


def _target(plan: Plan, target: Target, outcome: Outcome) -> dict[str, Any]:
    race = plan.entries.get(f"race on {target.name}")
    mine = [c for c in plan.candidates if c.target == target]
    found = [candidate_of(plan, c, outcome, mine) for c in mine]
    found += [simulated(plan, version) for version in plan.versions if version.simulated]
    candidates = [Candidate.model_validate(one) for one in found]
    reference = plan.entry(judged(plan.reference, plan.reference.judged_as[-1])).facts["metric"]["validation"]
    ratios = race.facts["ratio"] if race else {}

    def compare(a: str, b: str) -> Ratio | None:
        found = ratios.get(a, {}).get(b)
        return Ratio(**found) if found else None

    metric = plan.metric
    choice = choose(candidates, plan.values.budget, reference, compare, metric, target.unmeasured)
    notes = [*(_notes(race.facts) if race else []), *filter(None, [left_as_it_came(plan, target)])]
    return {
        "name": target.name,
        "chip": target.chip,
        "threads": plan.values.targets.threads,
        "candidates": [c.model_dump() for c in choice.candidates],
        "chosen": choice.chosen,
        "nearest": choice.nearest,
        "reason": choice.reason,
        "race": {
            "processes": plan.values.measure.processes,
            "rounds": race.facts["rounds"],
            "busy": race.facts["busy"],
            "energy": energy.said(race.facts["energy"]) if "energy" in race.facts else "",
            "notes": notes,
        }
        if race
        else None,
        "samples_file": f"samples-{target.name}.json" if race else None,
    }
