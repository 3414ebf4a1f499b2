"""Post-training quantization of a student that came as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgekd.errors import UserError
from edgekd.quant.precision import weight_only_name
from edgekd.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from edgekd.stage import Context
    from edgekd.student import Student

__all__ = ["QuantizeOnnx"]


@dataclass(frozen=True)
class QuantizeOnnx(Stage):
    """Weights and activations at 8 bits, as quantize/dequantize pairs written into the file; weights per channel.

    The ranges of the activations are the least and the largest value that the samples show, or of `observer` "percentile" and
    "entropy" narrower ones, drawn from histograms.

    `weight_only` "int8" or "int4" leaves activations in float: weights of linear layers alone, `group` of them to a scale and
    a zero point (MatMulNBits, for which ONNX Runtime has kernels). Nothing is calibrated.

    Embedding tables have int8 rows, or stay in float with `embeddings = 32`.
    """

    takes: ClassVar[str] = "file"
    gives: ClassVar[str] = "quantized file"
    reads: ClassVar[frozenset[str]] = frozenset({"calibration", "target"})
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxslim", "numpy")

    observer: Literal["minmax", "percentile", "entropy"] = "minmax"
    weight_only: Literal["", "int8", "int4"] = ""
    group: Literal[16, 32, 64, 128, 256] = 32
    embeddings: Literal[8, 32] = 8

    @property
    def precision(self) -> str:  # type: ignore[override]  # it depends on the bits
        return weight_only_name(self.bits) if self.weight_only else "int8"

    @property
    def bits(self) -> int:
        """Of each weight."""
        return 4 if self.weight_only == "int4" else 8

    def run(self, student: Student, context: Context, out: Path) -> dict[str, Any]:
        """Returns how many pairs were written. Raises UserError for a file that came quantized or has nothing to quantize."""
        from edgekd.onnx import file as onnx_file

        model = onnx_file.load(student.path / onnx_file.FILE)
        if onnx_file.quantized(model):
            raise UserError("the file came quantized", hint="leave the stage out: it is compiled and raced as it is")
        found, facts = (
            self._weights(model, context, student) if self.weight_only else self._both(model, context, student)
        )
        grid = "none" if self.weight_only else context.grid
        onnx_file.write_program(out, found, student.signature, self.precision, grid)
        return {"parameters": onnx_file.parameters(model), **facts}

    def _both(
        self, model: onnx.ModelProto, context: Context, student: Student
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        from edgekd.quant.onnx_ptq import quantize

        names = [port["name"] for port in student.signature["inputs"]]
        with context.progress.task("calibrate"):
            arrays = dict(zip(names, context.arrays(), strict=True))
            found = quantize(model, arrays, context.grid, self.observer, tables=self.embeddings == 8)
        pairs = sum(node.op_type == "DequantizeLinear" for node in found.graph.node)
        return found, {"pairs": pairs, "observer": self.observer, "embeddings": self.embeddings}

    def _weights(
        self, model: onnx.ModelProto, context: Context, student: Student
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        from edgekd.onnx.slim import slimmed
        from edgekd.quant.onnx_ptq import feeds
        from edgekd.quant.onnx_tables import integer_tables
        from edgekd.quant.onnx_weights import only_weights

        names = [port["name"] for port in student.signature["inputs"]]
        slim = slimmed(model, next(feeds(model, dict(zip(names, context.arrays(), strict=True)))))
        found = only_weights(slim, self.bits, self.group)
        if self.embeddings == 8:
            found = integer_tables(found)
        layers = sum(node.op_type == "MatMulNBits" for node in found.graph.node)
        note = f"{layers} linear layers with {self.weight_only} weights in groups of {self.group}, computed in float"
        return found, {"pairs": 0, "observer": "none", "note": note}
