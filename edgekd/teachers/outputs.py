"""Outputs that a teacher gave before, elsewhere: found again by the content of the sample."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from edgekd.errors import UserError
from edgekd.teacher import Teacher

__all__ = ["Outputs"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Outputs(Teacher):
    """`file`, an .npz: `inputs` [n, ...] as the data gives them, and for each either `logits` [n, classes], of any float type,
    or only its surest classes: `indices` and `probabilities` [n, k] out of `classes`, a number.

    What such a sample's k classes leave of probability is spread evenly over the others. A sample is known by its bytes, so
    augmented ones must be among the inputs too; one that is not is refused.
    """

    made_from: ClassVar[str] = "file"
    kept: ClassVar[str] = "teacher.npz"
    file: Path

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes], float32. Raises UserError for a sample that the file does not hold."""
        rows, logits = self._table
        keys = _keys(inputs.numpy())
        for index, key in enumerate(keys):
            if key not in rows:
                message = f"{self.file.name} holds no output for sample {index} of a batch of {len(keys)} ({len(rows)} are known)"
                hint = "it must hold every sample of every split, as the data gives it; data without augmentation"
                raise UserError(message, hint=hint)
        return torch.from_numpy(np.stack([logits[rows[key]] for key in keys]).astype(np.float32))

    @cached_property
    def _table(self) -> tuple[dict[bytes, int], Array]:
        """The row of each sample, and the logits [n, classes]."""
        try:
            with self.file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
                held = {name: stored[name] for name in stored.files}
        except Exception as error:  # no file, no zip archive, objects inside: they share no base class
            raise UserError(f"{self.file} is not an .npz file of arrays: {error}") from None
        if "inputs" not in held or not ("logits" in held or {"indices", "probabilities", "classes"} <= set(held)):
            hint = "inputs and logits, or inputs, indices, probabilities and classes"
            raise UserError(f"{self.file} holds {', '.join(sorted(held)) or 'nothing'}", hint=hint)
        logits = held["logits"] if "logits" in held else self._spread(held)
        if logits.ndim != 2 or len(logits) != len(held["inputs"]):
            shapes = f"inputs {list(held['inputs'].shape)} and logits {list(logits.shape)}"
            raise UserError(f"{self.file} holds {shapes}", hint="a row of logits [n, classes] for each input")
        return {key: row for row, key in enumerate(_keys(held["inputs"]))}, logits

    def _spread(self, held: dict[str, Array]) -> Array:
        """Log-probabilities [n, classes] of the surest classes."""
        indices, known, classes = held["indices"], held["probabilities"].astype(np.float64), int(held["classes"])
        legal = indices.shape == known.shape and indices.ndim == 2 and indices.min() >= 0 and indices.max() < classes
        if not legal or known.min() < 0 or known.sum(1).max() > 1 + 1e-3:
            shapes = f"indices {list(indices.shape)}, probabilities {list(known.shape)} of {classes} classes"
            hint = "two arrays [n, k]: indices below classes, probabilities that sum to at most 1"
            raise UserError(f"{self.file}: {shapes} do not fit", hint=hint)
        others = max(classes - known.shape[1], 1)
        spread = np.repeat(np.maximum(1 - known.sum(1, keepdims=True), 0) / others, classes, 1)
        np.put_along_axis(spread, indices, known, 1)
        return np.asarray(np.log(np.maximum(spread, np.finfo(np.float32).tiny)))


def _keys(inputs: Array) -> list[bytes]:
    """A digest of each sample's shape, type and bytes."""
    about = f"{inputs.dtype.str}{list(inputs.shape[1:])}".encode()
    whole = np.ascontiguousarray(inputs)
    return [hashlib.blake2b(about + sample.tobytes(), digest_size=16).digest() for sample in whole]
