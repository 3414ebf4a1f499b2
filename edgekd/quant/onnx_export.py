"""The program as an ONNX model: quantize/dequantize pairs with int8 weights, of a fixed batch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn


__all__ = ["OPSET", "export_onnx"]

OPSET = 20


def export_onnx(
    module: nn.Module, example: torch.Tensor, path: str | Path, *, input_name: str = "input", output_name: str = "output"
) -> None:
    """Write `module` (a float student in eval mode, or a converted program) for inputs shaped like `example` [batch, …].

    One input, one output, everything in the one file. The exporter's chatter is kept off stdout.
    """
    with torch.no_grad(), _quiet():
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
