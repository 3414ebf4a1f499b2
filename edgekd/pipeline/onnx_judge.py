"""An ONNX file judged: what its nodes say, computed by ONNX Runtime with every optimisation off, in a worker process.

Where there are no labels, the float file's outputs are the reference: top-1 agreement of class scores, else the fidelity.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.backend import Signature, open_backend, read_json, write_engine
from edgekd.errors import EdgekdError, UserError
from edgekd.metric import accuracy, agreement, fidelity, sqnr
from edgekd.pipeline.onnx_steps import RUNTIME, arrays
from edgekd.pipeline.step import Step, Version, judged

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan

HERE = Path(__file__).parent
JUDGED = ("validation", "test")
CLASSES = "accuracy", "agreement"
"""Metrics that are shares of samples, by the largest output."""


def judge(plan: Plan, version: Version) -> tuple[str, Step]:
    """The step that computes what a version's nodes say, on validation and test."""
    name = judged(version, "network")
    before = [judged(v, "network") for v in plan.versions[: plan.versions.index(version)]]
    against = ("student",) if version.name == "teacher" else ()
    inputs = (version.name, *against, "samples", *[b for b in before if b in ("judge teacher", "judge student")])
    key = plan.key("judge file", inputs, {}, [], [HERE / "onnx_judge.py"], packages=open_backend(RUNTIME).versions())

    def make(out: Path) -> dict[str, Any]:
        reference = None
        if version.name == "teacher":
            _check_teacher(plan)
            reference = computed(plan, plan.entry("student").path, out, name)
        found = computed(plan, plan.entry(version.name).path, out, name)
        size = {"parameters": plan.entry(version.name).facts.get("parameters"), "macs": None}
        size["bytes"] = (plan.entry(version.name).path / "model.onnx").stat().st_size
        return {**scores(plan, version, found, reference), **size}

    return name, Step(name, key, inputs, make)


def computed(plan: Plan, program: Path, out: Path, label: str) -> dict[str, list[np.ndarray]]:
    """What the nodes of a program compute, on validation and test; kept in `out`, as `outputs` reads it."""
    from edgekd.pipeline.engines import evaluate

    engine = out / "engine"
    engine.mkdir()
    shutil.copyfile(program / "model.onnx", engine / "model.onnx")
    precision = read_json(program / "program.json")["precision"]
    facts = {"backend": RUNTIME, "file": "model.onnx", "precision": precision, "options": AS_WRITTEN}
    write_engine(program, engine, facts)
    found = evaluate(engine, out, {s: plan.arrays(s) for s in JUDGED}, 1, plan.progress, label)
    shutil.rmtree(engine)
    return found


AS_WRITTEN = {
    "intra_op_num_threads": 1,
    "inter_op_num_threads": 1,
    "enable_cpu_mem_arena": False,
    "enable_mem_pattern": False,
    "entries": {},
    "optimise": False,
}


def _check_teacher(plan: Plan) -> None:
    """Raises UserError for a teacher that cannot take the student's inputs, or whose outputs cannot be compared."""
    sides = [Signature.read(plan.entry(name).path) for name in ("teacher", "student")]
    for side in ("inputs", "outputs"):
        theirs, ours = ([(p.shape, p.dtype) for p in getattr(one, side)] for one in sides)
        if theirs != ours:
            said = [", ".join(f"{dtype} {list(shape)}" for shape, dtype in ports) for ports in (theirs, ours)]
            message = f"the teacher's {side} are {said[0]}, the student's {said[1]}"
            raise UserError(message, hint="a teacher file has the same inputs and outputs, in the same order")


def outputs(plan: Plan, step: str, split: str) -> list[np.ndarray]:
    """What a judge step computed, an array an output."""
    from edgekd.pipeline.engines import read_arrays

    count = len(Signature.read(plan.entry("student").path).outputs)
    return read_arrays(plan.entry(step).path / "outputs.npz", split, count)


Outputs = Mapping[str, list[np.ndarray]]
"""Of each split, an array an output."""


def scores(plan: Plan, version: Version, found: Outputs, reference: Outputs | None = None) -> dict[str, Any]:
    """As the judge of a network: metric by split, agreement with the teacher, `right`; and the SQNR of the worst output by split.

    `reference`: the float file's outputs, by default those that were judged before. Raises EdgekdError for an output that is
    not finite.
    """
    for split, those in found.items():
        for output in those:
            bad = ~np.isfinite(output.reshape(len(output), -1)).all(1) if output.dtype.kind == "f" else np.zeros(1)
            if bad.any():
                message = f'"{version.name}" gives NaN or infinity for sample {int(bad.argmax())} of {split}'
                raise EdgekdError(message, hint="look at that sample; a float file that does so cannot be quantized")
    name = plan.entry("samples").facts["metric"]
    if reference is None:
        judged_before = "judge student" in plan.entries
        reference = {s: outputs(plan, "judge student", s) for s in JUDGED} if judged_before else found
    taught = "judge teacher" in plan.entries and name in CLASSES
    teacher = {s: outputs(plan, "judge teacher", s)[0] for s in JUDGED} if taught else None
    labels = {s: arrays(plan, s, "labels")[0] for s in JUDGED} if name == "accuracy" else None
    right = None
    if name in CLASSES:
        classes = labels["test"] if labels else reference["test"][0].argmax(1)
        right = np.packbits(found["test"][0].argmax(1) == classes).tobytes().hex()
    return {
        "right": right,
        "metric": {s: _score(name, found[s], reference[s], labels[s] if labels else None) for s in JUDGED},
        "agreement": {s: agreement(found[s][0], teacher[s]) for s in JUDGED} if teacher else None,
        "sqnr": {
            s: min((sqnr(a, b) for a, b in zip(found[s], reference[s], strict=True)), default=None) for s in JUDGED
        },
    }


def _score(name: str, found: list[np.ndarray], reference: list[np.ndarray], labels: np.ndarray | None) -> float:
    if name == "accuracy":
        assert labels is not None
        return accuracy(found[0], labels)
    if name == "agreement":
        return accuracy(found[0], reference[0].argmax(1))
    return min(fidelity(a, b) for a, b in zip(found, reference, strict=True))


def evaluated(plan: Plan, version: Version, found: Outputs) -> dict[str, Any]:
    """What an engine's outputs are worth, and how far they are from what its program says."""
    from edgekd.pipeline.engines import parity_of

    program = outputs(plan, judged(version, "network"), "test")
    parities = [parity_of(a, b, version.precision) for a, b in zip(found["test"], program, strict=True)]
    worst = {"top1": parities[0]["top1"], "steps": max(one["steps"] for one in parities)}
    return {**scores(plan, version, found), "parity": worst}
