"""What a worker process is asked to do with a backend; each takes a request and a progress function, gives a dict.

Requests and answers are JSON; arrays travel as .npy files, never pickled. A request may carry `plugins`, each FOLDER=PATH
as on the command line. Imports torch nowhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd import registry
from edgekd.backend import Array, load_engine, open_backend
from edgekd.errors import EdgekdError, UserError
from edgekd.tuner import Tuner
from edgekd.worker import Progress

PROGRESS_SECONDS = 0.2


def add_plugins(request: dict[str, Any]) -> None:
    """Register the plugin files that the request names."""
    for spec in request.get("plugins") or ():
        registry.add_plugin(spec)


def ask_unsupported(request: dict[str, Any], _: Progress) -> dict[str, Any]:
    """{"backend", "program", "target"} to {"lines"}: what the backend cannot take of the program."""
    add_plugins(request)
    backend = open_backend(request["backend"])
    return {"lines": backend.unsupported(Path(request["program"]), request["target"])}


def compile_program(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """{"backend", "program", "out", "target", "threads"} to the facts in the new engine's engine.json."""
    add_plugins(request)
    backend = open_backend(request["backend"])
    if command := backend.missing():
        raise UserError(f'the backend "{request["backend"]}" is not installed', hint=command)
    progress({"doing": f"compiling with {backend.name}"})
    return backend.compile(Path(request["program"]), Path(request["out"]), request["target"], request["threads"])


def compile_each(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """As `compile_program`, for each {"program", "out"} of "each", to {"failed": [why, or nothing, of each]}; sends {"made": its place}."""
    failed = [""] * len(request["each"])
    for index, one in enumerate(request["each"]):
        try:
            compile_program({**request, **one}, progress)
        except EdgekdError as error:
            failed[index] = error.message.partition("\n")[0]
        else:
            progress({"made": index})
    return {"failed": failed}


def tune(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """{"backend", "program", "target", "threads", "trials", "work", "out"} to what the backend says of its search."""
    add_plugins(request)
    backend = open_backend(request["backend"])
    if command := backend.missing():
        raise UserError(f'the backend "{request["backend"]}" is not installed', hint=command)
    if not isinstance(backend, Tuner):
        raise UserError(f'the backend "{request["backend"]}" does not tune', hint="leave targets.tune out")
    program, work, out = (Path(request[name]) for name in ("program", "work", "out"))
    return backend.tune(program, request["target"], request["threads"], request["trials"], work, out, progress)


def evaluate(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """{"engine", "inputs", "outputs", "batch"} to {"count", "seconds"}: run an engine over whole arrays.

    `inputs` and `outputs` are .npy files, one per port, samples along the first dimension; the outputs are written.
    `batch` (default 1) counts where the engine's batch dimension is dynamic; a fixed one is kept, the last batch padded.
    Inputs of one dimension more than their ports hold whole inputs, run one by one; outputs are stacked then.
    """
    add_plugins(request)
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in request["inputs"]]
    with load_engine(Path(request["engine"])) as session:
        ports = session.signature.inputs
        whole = any(array.ndim > len(port.shape) for array, port in zip(arrays, ports, strict=False))
        fixed = {port.shape[0] for port in ports if not whole and port.shape and isinstance(port.shape[0], int)}
        if len(fixed) > 1:
            raise UserError(f"the engine's inputs have different batch sizes: {sorted(fixed, key=str)}")
        batch = 1 if whole else int(next(iter(fixed), request.get("batch") or 1))
        counts = {len(array) for array in arrays}
        if len(counts) != 1 or counts == {0}:
            raise UserError(f"the input files must hold equally many samples, at least one; they hold {sorted(counts)}")
        total = counts.pop()
        found: list[list[Array]] = [[] for _ in session.signature.outputs]
        started = told = time.monotonic()
        for start in range(0, total, batch):
            size = min(batch, total - start)
            taken = (
                [np.array(x[start]) for x in arrays] if whole else _slice(arrays, start, size, batch if fixed else size)
            )
            for kept, values in zip(found, session.run(taken), strict=True):
                kept.append(np.asarray(values)[None] if whole else values[:size])
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                progress({"done": start + size, "total": total})
    if len(request["outputs"]) != len(found):
        raise UserError(f"the engine has {len(found)} output(s), {len(request['outputs'])} file(s) were named for them")
    for path, kept in zip(request["outputs"], found, strict=True):
        save_array(Path(path), np.concatenate(kept))
    progress({"done": total, "total": total})
    return {"count": total, "seconds": time.monotonic() - started}


def _slice(arrays: Iterable[Array], start: int, size: int, batch: int) -> Sequence[Array]:
    taken = [np.ascontiguousarray(array[start : start + size]) for array in arrays]
    if size == batch:
        return taken
    return [np.concatenate([x, np.repeat(x[-1:], batch - size, axis=0)]) for x in taken]


def save_array(path: Path, value: Array) -> None:
    """Write a .npy file whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            np.save(file, value, allow_pickle=False)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def tensors(request: dict[str, Any], _: Progress) -> dict[str, Any]:
    """{"backend", "program", "target", "threads", "inputs", "out", "written"} to {"names"}: what is computed inside an engine.

    `inputs` are .npy files, one per port, of whole samples; `out` is an .npz file, written with an array for each name, called
    "0", "1" and so on, since a name may be any text. `names` is null where the runtime does not show them.
    """
    add_plugins(request)
    arrays = [np.load(path, allow_pickle=False) for path in request["inputs"]]
    samples = [[array[i] for array in arrays] for i in range(len(arrays[0]))]
    backend, program = open_backend(request["backend"]), Path(request["program"])
    found = backend.tensors(program, request["target"], request["threads"], samples, request["written"])
    if found is None:
        return {"names": None}
    np.savez(request["out"], **{str(index): value for index, value in enumerate(found.values())})  # type: ignore[arg-type]
    return {"names": list(found)}
