"""Bundles of simulated engines whose latency is known exactly, and of real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from backends.folders import write_program

from edgekd import bundle
from edgekd.backend import open_backend, read_json

INPUTS = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
FACTS: dict[str, Any] = {
    "edgekd": "0.1.0",
    "promised": {"metric": 0.94, "metric_validation": 0.95, "agreement": {"top1": 0.97, "kl": 0.1}, "bytes": 1},
    "tolerance": {"top1": 1.0, "absolute": 1e-4},
    "digests": {"data": "d" * 64, "recipe": "r" * 64},
}


def made(
    folder: Path,
    backend: str = "null",
    model: onnx.ModelProto | None = None,
    *,
    facts: dict[str, Any] | None = None,
    target: str = "host",
    threads: int = 1,
    golden: bool = True,
    **settings: Any,
) -> Path:
    """A whole bundle; `settings` are the null backend's, `seconds` being all that a call takes."""
    folder.mkdir(parents=True, exist_ok=True)
    program, engine = write_program(folder / "program", model), folder / "engine"
    engine.mkdir()
    settings = {"seconds": 1e-3, "seconds_per_byte": 0.0, **settings}
    open_backend(backend).compile(program, engine, {"null": settings} if backend == "null" else {}, threads)
    held = {"inputs": INPUTS}
    if golden:
        with open_backend(backend).load(engine) as session:
            held["outputs"] = np.concatenate([session.run([x[None]])[0] for x in INPUTS])
    about = {**FACTS, "target": {"name": target, "chip": "chip", "threads": threads}, "backend": backend}
    about["promised"] = {**FACTS["promised"], "bytes": read_json(engine / "engine.json")["bytes"]}
    bundle.write(folder / "bundle", engine, {**about, **(facts or {})}, held, [], [])
    return folder / "bundle"
