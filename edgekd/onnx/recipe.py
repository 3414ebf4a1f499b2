"""`edgekd compile model.onnx`: the recipe that an ONNX file on its own stands for, and what a recipe for a file must say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import UserError, nearest

if TYPE_CHECKING:
    from edgekd.recipe import Loaded

SUFFIX = ".onnx"
ZERO_SHOT = "zero-shot"
STAGE = "quantize_onnx"
DROP = 0.01
"""What an integer engine may lose against the float file, unless `--set budget.metric_drop` says otherwise."""
OPTIONS = ("count", "scale", "mean", "std")
"""What [data] takes besides `use` and `path`."""


def table(model: Path, calibration: str = ZERO_SHOT, teacher: Path | None = None) -> dict[str, Any]:
    """The recipe as TOML would be read: quantize the file (unless it came so, or has nothing to quantize), race it, on `calibration`.

    `calibration`: "zero-shot", a folder of images, or an .npz file. Raises UserError for one that is none of them.
    """
    from edgekd.onnx import file as onnx_file

    if not model.is_file():
        raise UserError(f"{model} does not exist")
    found: dict[str, Any] = {
        "student": {"use": "onnx", "weights": model.name},
        "data": _data(model, calibration),
        "budget": {"metric_drop": DROP},
    }
    if teacher is not None:
        if not teacher.is_file():
            raise UserError(f"--teacher {teacher} does not exist")
        found["teacher"] = {"use": "onnx", "weights": _beside(model, teacher)}
    if onnx_file.looked_at(model, onnx_file.quantizable) is not False:
        found["stage"] = [{"use": STAGE}]
    return found


def _data(model: Path, calibration: str) -> dict[str, Any]:
    path = Path(calibration)
    if path.is_dir():
        return {"use": "images", "path": _beside(model, path)}
    if path.is_file():
        if path.suffix != ".npz":
            raise UserError(
                f"--calibration {path} is no .npz file", hint=f'"{ZERO_SHOT}", a folder of images, or an .npz file'
            )
        return {"use": "npz", "path": _beside(model, path)}
    if calibration != ZERO_SHOT:
        hint = f'"{ZERO_SHOT}", a folder of images, or an .npz file with an array for each input'
        raise UserError(f"--calibration {calibration} does not exist", hint=hint)
    return {"use": "noise"}


def _beside(model: Path, path: Path) -> str:
    """The path as a recipe beside the model names it, so that the recipe is the same wherever both are."""
    return os.path.relpath(path.resolve(), model.resolve().parent)


def check(recipe: Loaded) -> None:
    """What must hold of a recipe whose student is an ONNX file. Raises UserError."""
    values = recipe.values
    if not values.student.weights:
        raise recipe.error(["student", "use"], "an ONNX student needs its file", 'weights = "model.onnx"')
    if values.teacher is not None and values.teacher.use != "onnx":
        raise recipe.error(["teacher", "use"], "an ONNX file is compared to a teacher that is one", 'use = "onnx"')
    for name in ("student", "teacher"):
        section = getattr(values, name)
        further = [key for key in ("factory", "members", "classes", "resize") if getattr(section, key, None)]
        for argument in (*section.arguments, *further) if section is not None else ():
            raise recipe.error([name, argument], "unknown key", nearest(argument, ("use", "weights")))
    data = values.data
    for argument, value in data.arguments.items():
        if argument not in OPTIONS:
            raise recipe.error(["data", argument], "unknown key", nearest(argument, ("use", "path", *OPTIONS)))
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if argument == "count" and not whole:
            raise recipe.error(["data", "count"], f"{value!r} is no number of samples", "a whole number above zero")
    if data.use == "module" or data.factory or data.metric != "accuracy":
        message = "an ONNX file is judged on arrays: labels give an accuracy, without them agreement with the float file counts"
        raise recipe.error(["data", "use"], message, 'use = "noise", "images" or "npz", without factory and metric')
    if (data.use == "noise") == bool(data.path):
        hint = "remove it" if data.path else 'path = "calibration.npz"'
        raise recipe.error(["data", "path"], f'"{data.use}" {"reads no" if data.path else "needs a"} path', hint)
    if data.path:
        path = recipe.file(data.path)
        if not (path.is_dir() if data.use == "images" else path.is_file()):
            what = "folder" if data.use == "images" else "file"
            raise recipe.error(["data", "path"], f"{path} is no {what}", "paths are relative to the recipe")
