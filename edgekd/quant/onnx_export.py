"""The program as an ONNX model: quantize/dequantize pairs with int8 weights, of a fixed batch."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.export import ExportedProgram

from edgekd.quant.torchao import quiet

__all__ = ["OPSET", "export_onnx", "exported"]

OPSET = 20


def exported(module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """`module` (a float student in eval mode, or a converted program) as a graph, for inputs shaped like `example`."""
    with torch.no_grad(), quiet():
        return torch.export.export(module, (example,))


def export_onnx(
    program: nn.Module | ExportedProgram,
    example: torch.Tensor,
    path: str | Path,
    *,
    input_name: str = "input",
    output_name: str = "output",
) -> None:
    """Write `program` (or the module that it is `exported` from) for inputs shaped like `example` [batch, …].

    One input, one output, everything in the one file. The exporter's chatter is kept off stdout.
    """
    if isinstance(program, nn.Module):
        program = exported(program, example)
    with torch.no_grad(), quiet(), contextlib.redirect_stdout(io.StringIO()):
        written = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            verbose=False,
        )
    if written is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    onnx.save(written.model_proto, str(path))
