"""Image files of a folder, prepared by the preprocessing constants of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.source import Given, Source
from edgekd.student import Student
from edgekd.synthesis.shapes import floating, image_like
from edgekd.target import Calibration

__all__ = ["Images"]

KINDS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".npy")


@dataclass(frozen=True)
class Images(Source):
    """`path` is a folder, searched with what is in it; `count` of its images are drawn by the seed.

    PNG, JPEG, BMP and WebP are read by Pillow, as grey or RGB by the student's channels; `.npy` files hold pixels [height,
    width] or [height, width, channels] as numbers 0 to 255. The shorter side is scaled to the input's, the middle is kept,
    then x = (pixel · scale − mean) / std, constants that the data's `preprocessing` names.
    """

    reads_path: ClassVar[bool] = True

    def check(self, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
        if any(file.suffix.lower() != ".npy" for file in _files(recipe)):
            _pillow(recipe)

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        shape = floating(student, recipe)
        image_like(shape, recipe)
        constants = _constants(student.signature["preprocessing"], shape, recipe)
        files = _files(recipe)
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(recipe.seed))
        chosen = [files[i] for i in order[: recipe.count].sort().values.tolist()]
        found = []
        with given.progress.task(f"images: {len(chosen)} of {len(files)}", len(chosen)) as task:
            for file in chosen:
                found.append(_prepared(_pixels(file, shape, recipe), constants))
                task.advance()
        return torch.stack(found)


def _files(recipe: Calibration) -> list[Path]:
    """The images under the folder, sorted. Raises UserError where there is none."""
    folder = Path(recipe.path)
    if not folder.is_dir():
        hint = 'a folder of images; for one file of arrays, source = "npz"'
        raise UserError(f'calibration "{recipe.name}": path: {folder} is no folder', hint=hint)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in KINDS and file.is_file())
    if not found:
        raise UserError(f'calibration "{recipe.name}": {folder} holds no image', hint=f"known: {', '.join(KINDS)}")
    return found


def _pillow(recipe: Calibration) -> Any:
    try:
        from PIL import Image
    except ImportError:
        message = f'calibration "{recipe.name}": reading image files needs Pillow'
        raise UserError(message, hint='pip install "edgekd[images]"; .npy files need nothing') from None
    return Image


def _constants(
    preprocessing: Mapping[str, Any], shape: tuple[int, ...], recipe: Calibration
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """(scale, mean, std), the last two [channels, 1, 1]. Raises UserError where the data name no preprocessing."""
    if not {"scale", "mean", "std"} <= set(preprocessing):
        message = (
            f'calibration "{recipe.name}": how images become inputs is not known: the data\'s `preprocessing` lacks'
        )
        missing = ", ".join(sorted({"scale", "mean", "std"} - set(preprocessing)))
        hint = 'edgekd.Dataset(…, preprocessing={"scale": 1 / 255, "mean": [0.5], "std": [0.25]})'
        raise UserError(f"{message} {missing}", hint=hint)
    mean, std = (
        torch.tensor(preprocessing[n], dtype=torch.float32).flatten().expand(shape[0]) for n in ("mean", "std")
    )
    return float(preprocessing["scale"]), mean.view(-1, 1, 1), std.view(-1, 1, 1)


def _pixels(file: Path, shape: tuple[int, ...], recipe: Calibration) -> torch.Tensor:
    """Pixels [channels, height, width] of the input's size, 0 to 255. Raises UserError naming the file."""
    where = f'calibration "{recipe.name}": {file}'
    if file.suffix.lower() == ".npy":
        try:
            array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{where} is no array: {error}", hint="save it again with numpy.save") from None
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3 or array.shape[2] != shape[0] or array.dtype.kind not in "uif":
            message = f"{where} is {array.dtype} {list(array.shape)}"
            raise UserError(message, hint=f"pixels 0 to 255, [height, width, {shape[0]}]")
        pixels = torch.from_numpy(np.ascontiguousarray(array, np.float32)).permute(2, 0, 1)
    else:
        try:
            with _pillow(recipe).open(file) as image:
                mode = {1: "L", 3: "RGB"}.get(shape[0])
                if mode is None:
                    raise UserError(
                        f"{where}: the student's inputs have {shape[0]} channels", hint="1 or 3; or .npy files"
                    )
                pixels = torch.from_numpy(np.array(image.convert(mode), np.float32))
        except OSError as error:
            raise UserError(f"{where} is no whole image: {error}", hint="remove it, or copy it again") from None
        pixels = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    if not bool(torch.isfinite(pixels).all()):
        raise UserError(f"{where} has NaN or infinite values", hint="remove it, or mend it")
    return _sized(pixels, shape[1], shape[2])


def _sized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Scaled, smoothly, until it covers height × width; the middle of it."""
    factor = max(height / pixels.shape[1], width / pixels.shape[2])
    size = [max(round(side * factor), least) for side, least in zip(pixels.shape[1:], (height, width), strict=True)]
    if size != list(pixels.shape[1:]):
        scaled = nn.functional.interpolate(pixels.unsqueeze(0), size, mode="bilinear", antialias=True)
        pixels = scaled.squeeze(0).clamp(0, 255)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _prepared(pixels: torch.Tensor, constants: tuple[float, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    scale, mean, std = constants
    return (pixels * scale - mean) / std
