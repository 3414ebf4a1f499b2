"""What a run found of each engine, as the report's candidates. Reads only what the steps kept; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekd.backend import read_json
from edgekd.metric import EXACT
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import Outcome
from edgekd.pipeline.step import Candidate, Version, judged

NO_KERNELS = "simulated in torch: no runtime here has kernels for {}"
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
    cold = raced["cold_start"]
    return {
        **content,
        **_built(plan, candidate, noise_of(judged_engine)),
        "float_engine": float_name,
        "latency": raced["latency"] or None,
        "versus_float": raced["ratio"].get(float_name) if float_name else None,
        "versus_teacher": raced["ratio"].get(f"teacher on {candidate.backend}"),
        "metric": judged_engine["metric"]["test"],
        "metric_validation": judged_engine["metric"]["validation"],
        "agreement": agreement["test"] if agreement else None,
        "parity": judged_engine["parity"],
        "cold_start": cold[0]["seconds"] if cold else None,
        "peak_memory": cold[0]["peak"] if cold else None,
    }


def _built(plan: Plan, candidate: Candidate, noise: str) -> dict[str, Any]:
    """What the compilation says of an engine; `noise` is added to its note."""
    engine = engine_facts(plan, candidate)
    return {
        "grid": engine.get("grid", "none"),
        "bytes": engine["bytes"],
        "integer_nodes": engine.get("integer_nodes"),
        "float_nodes": engine.get("float_nodes"),
        "delegated_share": engine.get("delegated_share"),
        "note": "; ".join(filter(None, (engine.get("note", ""), noise))),
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
        "reason": NO_KERNELS.format(version.precision),
    }


def _float_engine(plan: Plan, candidate: Candidate, mine: list[Candidate]) -> str | None:
    """The engine of the same student in float on the same runtime: of the last float version before this one."""
    if not candidate.version.quantized:
        return None
    earlier = plan.versions[: plan.versions.index(candidate.version)]
    floats = [v for v in earlier if v.precision == "float32" and v.name != "teacher"]
    same = [c for c in mine if c.backend == candidate.backend and floats and c.version == floats[-1]]
    return same[0].name if same and same[0].step("compile") in plan.entries else None


def engine_facts(plan: Plan, candidate: Candidate) -> dict[str, Any]:
    return read_json(plan.entry(candidate.step("compile")).path / "engine.json")


def noise_of(facts: Mapping[str, Any]) -> str:
    """How far the outputs of an ONNX file are from the float one's, in words; empty for what is no file, or equal."""
    found = facts.get("sqnr")
    return "" if found is None or found >= EXACT else f"SQNR {found:.1f} dB"
