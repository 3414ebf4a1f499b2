"""What a run found of each engine, as the report's candidates. Reads only what the steps kept; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.backend import open_backend, read_json
from edgekd.metric import EXACT
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import Outcome
from edgekd.pipeline.step import Candidate, Version, judged
from edgekd.quant.precision import why_simulated

BUILT = "built, not measured: {}"


def candidate_of(plan: Plan, candidate: Candidate, outcome: Outcome, all_of_target: list[Candidate]) -> dict[str, Any]:
    version = candidate.version
    content: dict[str, Any] = {
        "name": candidate.name,
        "version": version.name,
        "backend": candidate.backend,
        "precision": version.precision,
    }
    race_failed = None if candidate.compile_only else outcome.failed.get(f"race on {candidate.target.name}")
    made = plan.entries.get(version.program)
    if made and (why_not := made.facts.get("why_not")):
        return {**content, "placement": made.facts.get("placement"), "verdict": "rejected", "reason": why_not}
    reason = outcome.failed.get(candidate.step("compile" if candidate.compile_only else "evaluate"), race_failed)
    if reason is not None:
        return {**content, "verdict": "failed", "reason": reason}
    if candidate.compile_only:
        return {
            **content,
            **_built(plan, candidate, ""),
            "verdict": "built",
            "reason": BUILT.format(candidate.compile_only),
        }
    judged_engine = plan.entry(candidate.step("evaluate")).facts
    race = plan.entries.get(f"race on {candidate.target.name}")
    raced = {key: race.facts[key][candidate.name] if race else {} for key in ("latency", "ratio", "cold_start")}
    float_name = _float_engine(plan, candidate, all_of_target)
    agreement = judged_engine["agreement"]
    cold, sqnr = raced["cold_start"], judged_engine.get("sqnr") or {}
    return {
        **content,
        **_built(plan, candidate, "; ".join(filter(None, (_twin(candidate), noise_of(judged_engine))))),
        "float_engine": float_name,
        "latency": raced["latency"] or None,
        "versus_float": raced["ratio"].get(float_name) if float_name else None,
        "versus_teacher": raced["ratio"].get(f"teacher on {candidate.backend}"),
        "metric": judged_engine["metric"]["test"],
        "metric_validation": judged_engine["metric"]["validation"],
        "agreement": agreement["test"] if agreement else None,
        "parity": judged_engine["parity"],
        "sqnr": sqnr.get("test"),
        "sqnr_validation": sqnr.get("validation"),
        "placement": made.facts.get("placement") if made else None,
        "cold_start": cold[0]["seconds"] if cold else None,
        "peak_memory": (cold[0]["peak"] or None) if cold else None,  # 0 where a device does not tell
        "energy": race.facts.get("energy", {}).get("joules", {}).get(candidate.name) if race else None,
    }


def _twin(candidate: Candidate) -> str:
    """What scored an engine that cannot be opened here."""
    foreign = open_backend(candidate.backend).foreign(candidate.target.model_dump(mode="json"))
    return "scored by the same program compiled for this machine" if foreign else ""


def _built(plan: Plan, candidate: Candidate, noise: str) -> dict[str, Any]:
    """What the compilation says of an engine; `noise` is added to its note."""
    engine = engine_facts(plan, candidate)
    placed = plan.entry(candidate.version.program).facts.get("note", "") if candidate.version.made_for else ""
    return {
        "grid": engine.get("grid", "none"),
        "bytes": engine["bytes"],
        "integer_nodes": engine.get("integer_nodes"),
        "float_nodes": engine.get("float_nodes"),
        "delegated_share": engine.get("delegated_share"),
        "note": "; ".join(filter(None, (placed, engine.get("note", ""), noise))),
        "compile_seconds": plan.entry(candidate.step("compile")).seconds,
    }


def simulated(plan: Plan, version: Version) -> dict[str, Any]:
    """A version that no backend was asked to compile: what torch says of it, and no latency."""
    facts = plan.entry(judged(version, "program")).facts
    agreement = facts["agreement"]
    return {
        "name": f"{version.name} in torch",
        "version": version.name,
        "backend": "torch",
        "precision": version.precision,
        "metric": facts["metric"]["test"],
        "metric_validation": facts["metric"]["validation"],
        "agreement": agreement["test"] if agreement else None,
        "verdict": "simulated",
        "reason": why_simulated(version.precision),
    }


def _float_engine(plan: Plan, candidate: Candidate, mine: list[Candidate]) -> str | None:
    """The engine of the same student in float on the same runtime: of the last float version before this one that was made."""
    if not candidate.version.quantized:
        return None
    if candidate.version.made_for:
        floats = [c.version for c in mine if c.backend == candidate.backend and _is_float(plan, c)]
    else:
        earlier = plan.versions[: plan.versions.index(candidate.version)]
        floats = [v for v in earlier if v.precision == "float32" and v.name != "teacher"]
    same = [c for c in mine if c.backend == candidate.backend and floats and c.version == floats[-1]]
    return same[0].name if same and same[0].step("compile") in plan.entries else None


def _is_float(plan: Plan, one: Candidate) -> bool:
    return not one.version.quantized and one.version.name != "teacher" and one.step("compile") in plan.entries


def engine_facts(plan: Plan, candidate: Candidate) -> dict[str, Any]:
    return read_json(plan.entry(candidate.step("compile")).path / "engine.json")


def noise_of(facts: Mapping[str, Any]) -> str:
    """How far the outputs of an ONNX file are from the float one's, in words; empty for what is no file, or equal."""
    found = (facts.get("sqnr") or {}).get("test")
    return "" if found is None or found >= EXACT else f"SQNR {found:.1f} dB"
