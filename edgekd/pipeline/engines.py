"""From a student to a raced engine: export, compile, evaluate, race. Backends only ever run in worker processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import worker
from edgekd.backend import Signature, open_backend
from edgekd.bundle import golden_names
from edgekd.errors import EdgekdError
from edgekd.metric import parity
from edgekd.quant.precision import weight_only_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekd.progress import Progress
    from edgekd.student import Student

GOLDEN = 8


def export(student: Student, out: Path) -> dict[str, Any]:
    """Write the program: `model.onnx`, the same as a graph for torch, the student's signature, its precision and grid."""
    quantized = student.quantized
    precision, grid = ("int8", quantized["grid"]) if quantized else ("float32", "none")
    if quantized and quantized["edit"] == "quantize_weights":
        precision = weight_only_name(quantized["bits"])
    return write_program(student.module(), student.example(), student.signature, precision, grid, out)


def write_program(
    module: nn.Module, example: torch.Tensor, signature: Mapping[str, Any], precision: str, grid: str, out: Path
) -> dict[str, Any]:
    """Write the program of a float network, or of a converted one of this grid, with a batch as `example` has.

    Where weights alone are integers, graph.json dequantizes them, and model.onnx has MatMulNBits.
    """
    from edgekd.quant.onnx_export import export_onnx, exported
    from edgekd.quant.torch_graph import write_graph
    from edgekd.quant.weight_only import folded, packed_file

    names = {f"{side}_name": signature[f"{side}s"][0]["name"] for side in ("input", "output")}
    program, (whole, packed) = exported(module, example), folded(module)
    write_graph(program, out)
    export_onnx(exported(whole, example) if packed else program, example, out / "model.onnx", **names)
    facts = {"precision": precision, "grid": grid if precision == "int8" else "none"}
    (out / "program.json").write_text(json.dumps(facts), "utf-8")
    (out / "signature.json").write_text(json.dumps(signature), "utf-8")
    if packed:
        packed_file(out, packed)
    return {**facts, "bytes": (out / "model.onnx").stat().st_size}


def compile_engine(
    program: Path, out: Path, backend: str, target: Mapping[str, Any], threads: int, timeout: float
) -> dict[str, Any]:
    """Ask what the backend cannot take, then compile. Raises EdgekdError with the reason if either fails.

    `timeout` is in seconds, for both together. A backend that is not installed is a reason with the command that adds it.
    """
    made_by = open_backend(backend)
    if command := made_by.missing():
        raise EdgekdError(f'the backend "{backend}" is not installed: {command}')
    end = time.monotonic() + timeout
    request = {"backend": backend, "program": str(program), "target": dict(target), "threads": threads}
    request["plugins"] = plugins()
    env = {**worker.thread_env(threads), **made_by.variables()}
    lines = worker.call("unsupported", request, env=env, timeout=timeout)["lines"]
    if lines:
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise EdgekdError(f"unsupported by {backend}: {'; '.join(lines[:3])}{more}")
    left = max(end - time.monotonic(), 0.001)
    return worker.call("compile", {**request, "out": str(out)}, env=env, timeout=left)


def evaluate(
    engine: Path,
    out: Path,
    inputs: Mapping[str, Sequence[np.ndarray]],
    threads: int,
    progress: Progress,
    label: str,
) -> dict[str, list[np.ndarray]]:
    """The engine's outputs on each split's inputs, an array a port, one sample at a time as an app runs it.

    All are kept in `outputs.npz`; the first of the validation split, inputs and outputs, go into `golden.npz`: what a bundle
    proves itself by.
    """
    found: dict[str, list[np.ndarray]] = {}
    ports = Signature.read(engine).outputs
    with progress.task(label, sum(len(x[0]) for x in inputs.values())) as task:
        for split, values in inputs.items():
            files = {
                "inputs": [out / f"{split}-inputs-{i}.npy" for i in range(len(values))],
                "outputs": [out / f"{split}-outputs-{i}.npy" for i in range(len(ports))],
            }
            for file, array in zip(files["inputs"], values, strict=True):
                np.save(file, array)
            named = {side: [str(file) for file in those] for side, those in files.items()}
            request = {"engine": str(engine), **named, "plugins": plugins()}
            worker.call("evaluate", request, env=worker.thread_env(threads), on_progress=advancing_by(task.advance))
            found[split] = [np.load(file, allow_pickle=False) for file in files["outputs"]]
            for file in (*files["inputs"], *files["outputs"]):
                file.unlink()
    write_arrays(out / "outputs.npz", found)
    write_golden(out, inputs["validation"], found["validation"])
    return found


def write_golden(out: Path, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
    """`golden.npz`: some samples from all over the split, with their outputs; an array a port."""
    total = len(outputs[0])
    spread = np.linspace(0, total - 1, min(GOLDEN, total)).round().astype(int)  # the split may be sorted by class
    golden = {"inputs": inputs, "outputs": outputs}
    write_arrays(out / "golden.npz", {side: [array[spread] for array in arrays] for side, arrays in golden.items()})


def write_arrays(file: Path, arrays: Mapping[str, Sequence[np.ndarray]]) -> None:
    """An .npz file with the arrays of each name, one called by the name alone, several by name and number."""
    named = {key: a for name, those in arrays.items() for key, a in zip(golden_names(name, those), those, strict=True)}
    np.savez(file, **named)  # type: ignore[arg-type]  # numpy types its keyword arguments as bool


def read_arrays(file: Path, name: str, count: int) -> list[np.ndarray]:
    """The `count` arrays that `write_arrays` wrote under that name."""
    with np.load(file, allow_pickle=False) as stored:
        return [stored[key] for key in golden_names(name, range(count))]


def advancing_by(advance: Callable[[float], None]) -> Callable[[dict[str, Any]], None]:
    """What a worker says it has done, as steps of a task."""
    seen = 0.0

    def report(message: dict[str, Any]) -> None:
        nonlocal seen
        if "done" in message:
            advance(message["done"] - seen)
            seen = message["done"]

    return report


def parity_of(ours: np.ndarray, theirs: np.ndarray, precision: str) -> dict[str, float]:
    """One output of the engine against the program's, [n, ...], on the test split.

    The step is that of an 8-bit grid over the program's outputs; for float32, of its spacing at the largest output.
    """
    span = float(theirs.max() - theirs.min())
    step = span / 255 if precision == "int8" else float(np.spacing(np.abs(theirs, dtype=np.float32).max()))
    return parity(ours, theirs, max(step, 1e-30))


def plugins() -> list[str]:
    """The plugin files of this process, as a worker is told them."""
    from edgekd import registry

    return registry.plugin_specs()
