"""Weights alone become integers: linear layers in 8 or 4 bits, a scale and a zero point for each group of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekd.quant.precision import weight_only_name
from edgekd.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from edgekd.stage import Context
    from edgekd.student import Student

__all__ = ["QuantizeWeights"]


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Stage):
    """`weights`: bits, 8 or 4. `group`: how many weights of a row share a scale and a zero point.

    Activations stay in float, so nothing is calibrated and no data are read. ONNX Runtime multiplies by the packed weights
    (MatMulNBits): what a layer of one sample waits for, memory, is read in a quarter or an eighth of the bytes. Convolutions, and
    linear layers of fewer inputs than a group has, stay in float. Embedding tables have int8 rows, or stay in float with
    `embeddings = 32`.
    """

    takes = "student"
    gives = "quantized"
    weights: Literal[4, 8] = 4
    group: Literal[16, 32, 64, 128, 256] = 32
    embeddings: Literal[8, 32] = 8

    @property
    def precision(self) -> str:  # type: ignore[override]  # it depends on the bits
        return weight_only_name(self.weights)

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns the layers with their weights' relative squared error. Raises UserError for a student without such a layer."""
        from edgekd.quant.weight_only import errors, traced
        from edgekd.student import save_next

        found = errors(traced(student.network(), student.example(2)), self.weights, self.group)
        edit = {"edit": "quantize_weights", "grid": "none", "bits": self.weights, "group": self.group}
        save_next(out, student, student.weights(), edit | {"embeddings": self.embeddings})
        said = (
            f"{len(found)} linear layers with {self.weights}-bit weights in groups of {self.group}, computed in float"
        )
        context.progress.say(f"  quantize_weights: {said}")
        return {"layers": [{"layer": name, "error": error} for name, error in found.items()], "note": said}
