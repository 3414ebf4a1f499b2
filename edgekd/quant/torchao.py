"""What edgekd uses of torchao's PT2E, imported in one place and without its chatter.

torchao 0.18 logs a line for each CUDA library that it cannot load, and torch one for how torchao registers an enum: neither
says anything about a CPU, and stderr is for talk that helps.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "Q_ANNOTATION_KEY",
    "ObserverBase",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "Quantizer",
    "SharedQuantizationSpec",
    "convert_pt2e",
    "insert_adapters",
    "quiet",
    "scopes_of",
]

CHATTY = ("torchao", "torch.utils._pytree", "torch.export", "torch.onnx", "onnxscript", "onnx_ir")


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, and without what the libraries named above log below an error."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


with quiet():
    from torchao.quantization.pt2e import ObserverBase
    from torchao.quantization.pt2e.prepare import prepare as insert_adapters
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        QuantizationSpecBase,
        Quantizer,
        SharedQuantizationSpec,
    )
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY
    from torchao.quantization.pt2e.utils import _get_node_name_to_scope as scopes_of
