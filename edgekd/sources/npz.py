"""Inputs from an array of an .npz file, as they are: already prepared."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from edgekd.errors import UserError, nearest
from edgekd.source import Given, Source
from edgekd.student import Student
from edgekd.target import Calibration

__all__ = ["Npz"]


@dataclass(frozen=True)
class Npz(Source):
    """`path` is the file; `array` names the array in it, [n, ...] of the input's shape, if there are several."""

    reads_path: ClassVar[bool] = True

    array: str = ""

    def check(self, recipe: Calibration, network: Callable[[], nn.Module]) -> None:
        self._read(recipe)

    def inputs(self, student: Student, recipe: Calibration, given: Given) -> torch.Tensor:
        name, values = self._read(recipe)
        where = f'calibration "{recipe.name}": "{name}" in {recipe.path}'
        expected = student.example(1)
        if list(values.shape[1:]) != list(expected.shape[1:]) or not len(values):
            message = f"{where} is {list(values.shape)}"
            raise UserError(message, hint=f"the student takes [n, {', '.join(map(str, expected.shape[1:]))}]")
        if (values.dtype.kind == "f") != expected.is_floating_point() or values.dtype.kind not in "iuf":
            raise UserError(f"{where} holds {values.dtype}", hint=f"the student takes {expected.dtype}")
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(recipe.seed))
        chosen = order[: recipe.count].sort().values.numpy()
        found = torch.from_numpy(values[chosen]).to(expected.dtype)
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            first = int((~torch.isfinite(found.flatten(1))).any(1).nonzero()[0])
            raise UserError(f"{where}: input {chosen[first]} has NaN or infinite values", hint="remove it, or mend it")
        return found

    def _read(self, recipe: Calibration) -> tuple[str, np.ndarray]:
        """(name, array). Raises UserError for what is no .npz file, or an array that it does not hold."""
        file = Path(recipe.path)
        where = f'calibration "{recipe.name}": {file}'
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                if isinstance(stored, np.ndarray):
                    raise UserError(f"{where} holds one bare array", hint="save it with numpy.savez")
                name = self.array or (stored.files[0] if len(stored.files) == 1 else "")
                if name not in stored.files:
                    hint = (
                        nearest(name, stored.files) if name else f"[options] array = one of {', '.join(stored.files)}"
                    )
                    raise UserError(f'{where} holds {len(stored.files)} arrays, none is named "{name}"', hint=hint)
                return name, stored[name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{where} is not a whole .npz file: {error}", hint="write it with numpy.savez") from None
