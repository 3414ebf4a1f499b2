"""The tensors inside an ONNX model: the same model, with what its nodes give as further outputs. No torch."""

from __future__ import annotations

import onnx

__all__ = ["exposed"]


def exposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose outputs are every node's, in the order of the graph; ONNX Runtime infers their types."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    del shown.graph.output[:]
    for name in {**names, **dict.fromkeys(known)}:
        shown.graph.output.append(known.get(name, onnx.ValueInfoProto(name=name)))
    return shown
