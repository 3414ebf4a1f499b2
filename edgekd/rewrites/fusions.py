"""ONNX Runtime's own fusions of transformers: attention, layer norms with the sum before them, GELUs."""

from __future__ import annotations

import logging

import onnx

__all__ = ["fusions"]


def fusions(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model after ONNX Runtime's fusions of transformers; None where they fused nothing. It changes `sys.path`."""
    from onnxruntime.transformers.optimizer import optimize_model

    before = {(node.domain, node.op_type) for node in model.graph.node}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    before_level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        fused: onnx.ModelProto = optimize_model(copied, model_type="bert", opt_level=0).model
    finally:
        logging.disable(before_level)
    return fused if {(node.domain, node.op_type) for node in fused.graph.node} - before else None
