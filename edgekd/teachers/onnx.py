"""An ONNX file, run by ONNX Runtime as a black box: logits only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import torch

from edgekd.errors import UserError
from edgekd.teacher import Teacher

__all__ = ["Onnx"]

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(uint8)": np.uint8}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Onnx(Teacher):
    """`file` has one input and its first output is used; its batch may be free or fixed.

    `probabilities`: the file ends in a softmax; its logarithm is as good as the logits, since softmax(log p) = p.
    """

    made_from: ClassVar[str] = "file"
    kept: ClassVar[str] = "teacher.onnx"
    file: Path
    probabilities: bool = False

    def __post_init__(self) -> None:
        inputs = [node.name for node in self._session.get_inputs()]
        if len(inputs) != 1:
            raise UserError(f"{self.file} has {len(inputs)} inputs: {', '.join(inputs)}", hint="a teacher has one")

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes], float32. Raises UserError for inputs or outputs of another shape."""
        entry = self._session.get_inputs()[0]
        if entry.type not in DTYPES:
            raise UserError(f'{self.file}: input "{entry.name}" is a {entry.type}', hint=f"known: {', '.join(DTYPES)}")
        values = inputs.numpy().astype(DTYPES[entry.type], copy=False)
        fixed = entry.shape[0] if isinstance(entry.shape[0], int) else len(values)
        parts = (values[i : i + fixed] for i in range(0, len(values), fixed))
        logits = np.concatenate([self._run(entry.name, part, fixed) for part in parts])
        if self.probabilities:
            logits = np.log(np.maximum(logits, np.finfo(np.float32).tiny))
        return torch.from_numpy(logits)

    @classmethod
    def keep(cls, source: Path, path: Path) -> None:
        """Write an ONNX file with all its weights inside. Raises UserError if the file, or weights beside it, cannot be read."""
        try:
            path.write_bytes(onnx.load(source).SerializeToString())
        except Exception as error:  # protobuf's, onnx's and the system's kinds share no base class
            hint = "export it again, with the weights inside or beside it"
            raise UserError(f"{source} is not a whole ONNX file: {' '.join(str(error).split())}", hint=hint) from error

    def _run(self, name: str, part: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
        """One batch of `size`; a shorter part is filled up with its last sample, and cut again."""
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)]) if len(part) < size else part
        try:
            output = np.asarray(self._session.run(None, {name: filled})[0], np.float32)
        except Exception as error:  # ONNX Runtime's own kinds share no base class
            raise UserError(f"{self.file} does not run on inputs {list(filled.shape)}: {error}") from error
        if output.ndim != 2 or len(output) != size:
            shape = f"{self.file} gives {list(output.shape)} for a batch of {size}"
            raise UserError(shape, hint="logits are [batch, classes]")
        return output[: len(part)]

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        if not self.file.is_file():
            raise UserError(f"{self.file} does not exist")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own kinds share no base class
            raise UserError(f"{self.file} is not an ONNX file that ONNX Runtime can run: {error}") from error
