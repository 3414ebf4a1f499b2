"""Layer by layer, engine against program: the first tensor that is not the same. What `edgekd compile --debug parity` tells.

The program is what torch computes, node by node; where it came as an ONNX file, what ONNX Runtime computes with every
optimisation off. An engine shows the tensors that are left of it after its runtime fused what it could.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import worker
from edgekd.backend import Array, read_json
from edgekd.errors import EdgekdError
from edgekd.pipeline.engines import plugins
from edgekd.pipeline.onnx_steps import RUNTIME

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.step import Candidate

SAMPLES = 4
TOLERANCE = {"int8": 1.0, "float32": 1000.0}
"""Steps that a tensor may differ by: rounding on a tie; in float, sums in another order."""


def compare(plan: Plan) -> list[dict[str, Any]]:
    """For each engine that was compiled: {"engine", "target", "tensors", "first", "reason"}.

    `tensors`, in the program's order: {"tensor", "steps", "differing"}, the largest difference in steps (of an integer, one; of
    float values, 1/255 of their span, or in a float program float32's spacing at the largest), and the share of values that
    differ. `first` is the name of the first that differs by more than `TOLERANCE`; `reason` says why there are none.
    """
    found: list[dict[str, Any]] = []
    references: dict[str, dict[str, Array]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = [array[:SAMPLES] for array in plan.arrays("validation")]
        files = [folder / f"inputs-{index}.npy" for index in range(len(arrays))]
        for candidate in plan.candidates:
            if candidate.step("compile") not in plan.entries:
                continue
            program = plan.entry(candidate.version.program).path
            _save(files, arrays, program)
            row = {"engine": candidate.name, "target": candidate.target.name}
            try:
                seen = _inside(plan, candidate, candidate.backend, program, files, written=False)
                if seen is None:
                    found.append({**row, "tensors": [], "first": None, "reason": "its runtime does not show them"})
                    continue
                key = candidate.version.name
                if key not in references:
                    references[key] = _reference(plan, candidate, program, files)
                rows = differences(references[key], seen, candidate.version.precision)
                limit = TOLERANCE.get(candidate.version.precision, TOLERANCE["float32"])
                first = next((one["tensor"] for one in rows if one["steps"] > limit), None)
                found.append({**row, "tensors": rows, "first": first, "reason": "" if rows else "no names in common"})
            except EdgekdError as error:
                found.append({**row, "tensors": [], "first": None, "reason": error.message.splitlines()[0]})
    return found


def _save(files: list[Path], arrays: list[np.ndarray], program: Path) -> None:
    """The samples as the engine takes them, one at a time: with a batch of one, unless they are whole inputs."""
    ports = read_json(program / "signature.json")["inputs"]
    for file, array, port in zip(files, arrays, ports, strict=True):
        np.save(file, array if array.ndim > len(port["shape"]) else array[:, None])


def _inside(
    plan: Plan, candidate: Candidate, backend: str, program: Path, files: list[Path], written: bool
) -> dict[str, Array] | None:
    threads, out = plan.values.targets.threads, files[0].parent / "tensors.npz"
    request = {
        "backend": backend,
        "program": str(program),
        "target": candidate.target.model_dump(mode="json"),
        "threads": threads,
        "inputs": [str(file) for file in files],
        "out": str(out),
        "written": written,
        "plugins": plugins(),
    }
    names = worker.call("tensors", request, env=worker.thread_env(threads))["names"]
    if names is None:
        return None
    with np.load(out, allow_pickle=False) as stored:
        return {name: stored[str(index)] for index, name in enumerate(names)}


def _reference(plan: Plan, candidate: Candidate, program: Path, files: list[Path]) -> dict[str, Array]:
    """Every tensor of the program, in order."""
    if "nodes" in read_json(program / "graph.json"):
        from edgekd.quant.torch_graph import read_graph, tensors

        (inputs,) = (np.load(file, allow_pickle=False) for file in files)
        names = [port["name"] for port in read_json(program / "signature.json")["outputs"]]
        return tensors(read_graph(program), inputs, names)
    return _inside(plan, candidate, RUNTIME, program, files, written=True) or {}


def differences(reference: Mapping[str, Array], found: Mapping[str, Array], precision: str) -> list[dict[str, Any]]:
    """Rows of `compare` for the tensors that both name, and that have one shape, in the reference's order.

    s8 and u8 of one tensor are one grid, moved by 128 (`edgekd.quant.rewrite.s8_to_u8`).
    """
    rows = []
    for name, theirs in reference.items():
        ours = found.get(name)
        if ours is None or ours.shape != theirs.shape or not theirs.size or theirs.dtype.kind not in "fiu":
            continue
        a, b = (value.astype(np.float64) for value in (theirs, ours))
        integers = theirs.dtype.kind != "f" and ours.dtype.kind != "f"
        if integers and theirs.dtype == np.int8 and ours.dtype == np.uint8:
            b -= 128
        elif integers != (theirs.dtype.kind != "f"):
            continue
        gap = np.abs(a - b)
        rows.append(
            {
                "tensor": name,
                "steps": float(np.nan_to_num(gap.max() / _step(a, integers, precision), nan=np.finfo(float).max)),
                "differing": float((gap != 0).mean()),
            }
        )
    return rows


def _step(values: np.ndarray, integers: bool, precision: str) -> float:
    if integers:
        return 1.0
    span = float(values.max() - values.min())
    step = span / 255 if precision == "int8" else float(np.spacing(np.float32(np.abs(values).max())))
    return max(step, 1e-30)


def lines(found: list[dict[str, Any]]) -> list[str]:
    """What a terminal shows of it, a line for each engine."""
    said = []
    for one in found:
        if one["reason"]:
            said.append(f"{one['engine']}: {one['reason']}")
            continue
        count = len(one["tensors"])
        worst = max(one["tensors"], key=lambda row: float(row["steps"]))
        end = f"largest difference {worst['steps']:.3g} steps, at {worst['tensor']}"
        if one["first"] is None:
            said.append(f"{one['engine']}: none of {count} tensors diverges; {end}")
        else:
            row = next(row for row in one["tensors"] if row["tensor"] == one["first"])
            said.append(
                f"{one['engine']}: {one['first']} is the first of {count} tensors to diverge: {row['steps']:.3g} steps, "
                f"{row['differing']:.1%} of its values; {end}"
            )
    return said
