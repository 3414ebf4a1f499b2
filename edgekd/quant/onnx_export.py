"""The program as an ONNX model: quantize/dequantize pairs with int8 weights, of a fixed batch."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import onnx
import torch
from torch import nn

from edgekd.quant.torchao import quiet

__all__ = ["OPSET", "export_onnx"]

OPSET = 20


def export_onnx(
    module: nn.Module,
    example: torch.Tensor,
    path: str | Path,
    *,
    input_name: str = "input",
    output_name: str = "output",
) -> None:
    """Write `module` (a float student in eval mode, or a converted program) for inputs shaped like `example` [batch, …].

    One input, one output, everything in the one file. The exporter's chatter is kept off stdout.
    """
    with torch.no_grad(), quiet(), contextlib.redirect_stdout(io.StringIO()):
        program = torch.export.export(module, (example,))
        exported = torch.onnx.export(
            program,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=[output_name],
            verbose=False,
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    onnx.save(exported.model_proto, str(path))
