"""Devices for the tests: targets that reach this machine in other ways, and simulated engines whose latency is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from backends.folders import write_program

from edgekd.backend import open_backend
from edgekd.target import Target, find_target, this_machine

X = np.random.default_rng(5).standard_normal((6, 1, 8, 8)).astype(np.float32)


def board(folder: Path, reach: str, name: str = "board", **facts: str) -> Target:
    """A target of this machine's kind with this [reach]."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"chip": '"X"', "triple": f'"{this_machine()["triple"]}"', "backends": '["onnxruntime"]', **facts}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    (folder / f"{name}.toml").write_text(f"{text}[reach]\n{reach}\n")
    return find_target(f"{name}.toml", folder)


def by_env(folder: Path, name: str = "board", more: str = f'python = "{sys.executable}"', **facts: str) -> Target:
    """Programs are run by `env`, which is here: exec's way without a simulator."""
    return board(folder, f'kind = "exec"\ncommand = ["env"]\nfolder = "{folder / "there"}"\n{more}', name, **facts)


def simulated(folder: Path, name: str, seconds: float, **more: Any) -> Path:
    """An engine of the null backend that takes exactly so long."""
    program, out = write_program(folder / "program"), folder / name
    out.mkdir()
    open_backend("null").compile(program, out, {"null": {"seconds": seconds, "seconds_per_byte": 0.0, **more}}, 1)
    return out


def real(folder: Path, name: str = "real", backend: str = "onnxruntime", **more: Any) -> Path:
    """An engine of ONNX Runtime, or of another backend."""
    out = folder / name
    out.mkdir(parents=True)
    open_backend(backend).compile(write_program(folder / f"{name}-program", **more), out, {}, 1)
    return out


def left(target: Target) -> list[str]:
    """What lies in the device's work folder, where `by_env` has it."""
    root = Path(getattr(target.reach, "folder", ""))
    return sorted(path.name for path in (root / "work").glob("*"))
