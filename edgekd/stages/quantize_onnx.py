"""Post-training quantization of a student that came as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgekd.errors import UserError
from edgekd.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from edgekd.stage import Context
    from edgekd.student import Student

__all__ = ["QuantizeOnnx"]


@dataclass(frozen=True)
class QuantizeOnnx(Stage):
    """Weights and activations at 8 bits, as quantize/dequantize pairs written into the file; weights per channel.

    The ranges of the activations are the least and the largest value that the samples show, or of `observer` "percentile" and
    "entropy" narrower ones, drawn from histograms.
    """

    takes: ClassVar[str] = "file"
    gives: ClassVar[str] = "quantized file"
    reads: ClassVar[frozenset[str]] = frozenset({"calibration", "target"})
    precision: ClassVar[str] = "int8"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxslim", "numpy")

    observer: Literal["minmax", "percentile", "entropy"] = "minmax"

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns how many pairs were written. Raises UserError for a file that came quantized or has nothing to quantize."""
        from edgekd import onnx_file
        from edgekd.quant.onnx_ptq import quantize

        model = onnx_file.load(student.path / onnx_file.FILE)
        if onnx_file.quantized(model):
            raise UserError("the file came quantized", hint="leave the stage out: it is compiled and raced as it is")
        signature = student.signature
        names = [port["name"] for port in signature["inputs"]]
        with context.progress.task("calibrate"):
            found = quantize(model, dict(zip(names, context.arrays(), strict=True)), context.grid, self.observer)
        onnx_file.write_program(out, found, signature, "int8", context.grid)
        pairs = sum(node.op_type == "DequantizeLinear" for node in found.graph.node)
        return {"parameters": onnx_file.parameters(model), "pairs": pairs, "observer": self.observer}
