"""One quantized student for benchmarks/quantization.py: a recipe written, its steps made or taken from the store, scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekd import api
from edgekd.pipeline.plan import Plan

STEPS = ("student", "quantize", "judge student", "judge quantize, program")


def toml(value: Any) -> str:
    """A value as TOML has it on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def ran(plan: Plan, names: tuple[str, ...]) -> None:
    """Make these steps and what they read, or take them from the store."""
    for name, step in plan.steps.items():
        if name in names or any(name in plan.steps[one].reads for one in names):
            plan.entries[name] = plan.store.get(step.key) or plan.store.make(step.key, step.label, step.make)


def quantized(
    work: Path, name: str, head: str, stage: dict[str, Any], calibration: dict[str, Any], seed: int
) -> tuple[dict[str, Any], Path]:
    """One quantized student, scored in percent, on validation and test, and its outputs' file; from the store if it is there.

    With `max_drop` in the stage also "control": what its accuracy control found.

    `head`: the recipe's tables before its one stage; `calibration`: fields of a calibration recipe, without seed and observer.
    """
    source = {**calibration, "seed": seed, "observer": "mse"}
    options = source.pop("options", {})
    lines = [f"{key} = {toml(value)}" for key, value in source.items()]
    lines += ["[options]", *(f"{key} = {toml(value)}" for key, value in options.items())]
    (work / f"{name}-calibration.toml").write_text("\n".join(lines) + "\n", "utf-8")
    fields = {"use": "quantize", "calibration": f"{name}-calibration.toml", "sensitivity": 0, **stage}
    recipe = work / f"{name}.toml"
    recipe.write_text(
        f"seed = {seed}\n{head}\n[[stage]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in fields.items()),
        "utf-8",
    )
    plan = api.prepare(recipe, backends=["onnxruntime"], store=work / "store", quiet=True)
    ran(plan, STEPS)
    metric = {one: plan.entries[f"judge {one}"].facts["metric"] for one in ("student", "quantize, program")}
    scored = {
        "float": 100 * metric["student"]["test"],
        "test": 100 * metric["quantize, program"]["test"],
        "validation": 100 * metric["quantize, program"]["validation"],
        "calibration_seconds": plan.entries["calibration for quantize"].seconds,
        "seconds": plan.entries["quantize"].seconds,
    }
    if "max_drop" in stage:
        scored["control"] = plan.entries["quantize"].facts["control"]
    return scored, plan.entries["judge quantize, program"].path / "outputs.npz"
