"""What a source is given in these tests: everything real and small, and data that may not be read where it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import tiny_data, tiny_saved, tiny_student

from edgekd import registry
from edgekd.data import Dataset
from edgekd.progress import Progress
from edgekd.source import Given, checked
from edgekd.student import Student
from edgekd.target import Calibration
from edgekd.teachers.module import Module

BRIEF: dict[str, dict[str, Any]] = {
    "bn_statistics": {"steps": 3, "batch": 8},
    "genie": {"steps": 3, "batch": 8, "channels": 8},
    "teacher": {"steps": 3, "batch": 8},
}
PIXELS = {"scale": 1 / 255, "mean": [0.5], "std": [0.25]}


def forbidden() -> Dataset:
    raise AssertionError("a synthetic source asked for the data")


def given(folder: Path, data: Callable[[], Dataset] = tiny_data, **changes: Any) -> Given:
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    found = {
        "data": data,
        "teacher": lambda: Module(tiny_student(16, 7)),
        "progress": Progress(quiet=True),
        "work": work,
    }
    return Given(**{**found, **changes})


def saved(folder: Path, **signature: Any) -> Student:
    """A tiny student's folder, its signature changed."""
    import json

    student = tiny_saved(folder / "student", trained=True)
    (student.path / "signature.json").write_text(json.dumps({**student.signature, **signature}))
    return student


def recipe(source: str, folder: Path, **changes: Any) -> Calibration:
    """A calibration recipe of 20 inputs; for `images` and `npz` with files to read."""
    if source in ("images", "npz") and "path" not in changes:
        changes["path"] = str(write_images(folder) if source == "images" else write_npz(folder))
    return Calibration.model_validate({"name": "mine", "source": source, "count": 20, **changes})


def inputs(
    source: str, folder: Path, student: Student | None = None, around: Given | None = None, **changes: Any
) -> torch.Tensor:
    """Check the recipe as a run does, then ask the source; `options` are brief unless given."""
    options = {**BRIEF.get(source, {}), **changes.pop("options", {})}
    asked = recipe(source, folder, options=options, **changes)
    made = registry.build("sources", source, options)
    checked(made, asked, tiny_student)
    found: torch.Tensor = made.inputs(student or saved(folder, preprocessing=PIXELS), asked, around or given(folder))
    return found


def write_images(folder: Path, count: int = 24) -> Path:
    """A folder of grey images, each of another size."""
    place = folder / "images"
    place.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for index in range(count):
        np.save(place / f"{index:02}.npy", draw.integers(0, 256, (12 + index % 5, 12 + index % 3), np.uint8))
    return place


def write_npz(folder: Path, **arrays: np.ndarray) -> Path:
    """A file of 24 inputs, or of these arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    np.savez(folder / "inputs.npz", **(arrays or {"inputs": draw.normal(size=(24, 1, 12, 12)).astype(np.float32)}))
    return folder / "inputs.npz"
