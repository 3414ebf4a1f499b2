"""The nodes of an ONNX graph, each as a model of its own, so that a runtime can be asked what it has kernels for. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import onnx


def single_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.ModelProto]]:
    """Each node with a model that holds it alone. Nodes whose types are not known, or with subgraphs, are left out."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = {v.name: v.type for v in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        names = [name for name in node.input if name]
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            continue
        if any(name not in values and name not in constants for name in names):
            continue
        single = onnx.ModelProto(ir_version=model.ir_version)
        single.opset_import.extend(model.opset_import)
        single.functions.extend(model.functions)
        alone = single.graph
        alone.name = "node"
        alone.node.add().CopyFrom(node)
        for name in dict.fromkeys(names):
            if name in constants:
                alone.initializer.add().CopyFrom(constants[name])
            else:
                alone.input.add(name=name).type.CopyFrom(values[name])
        for name in filter(None, node.output):
            value = alone.output.add(name=name)
            if name in values:
                value.type.CopyFrom(values[name])
        yield node, single


def kind_of(graph: onnx.GraphProto) -> bytes:
    """What a one-node graph is, without its names and weights."""
    node = graph.node[0]
    attributes = [a.SerializeToString(deterministic=True).hex() for a in node.attribute]
    types = [value.type.SerializeToString(deterministic=True).hex() for value in graph.input]
    weights = [[t.data_type, list(t.dims)] for t in graph.initializer]
    return json.dumps([node.domain, node.op_type, attributes, types, weights]).encode()


def refused_nodes(model: onnx.ModelProto, opens: Callable[[onnx.ModelProto], str]) -> list[tuple[onnx.NodeProto, str]]:
    """The nodes that a runtime refuses on their own, and why; equal nodes are asked about once.

    `opens(model)`: empty if the runtime opens it, else its words.
    """
    answers: dict[bytes, str] = {}
    refused: list[tuple[onnx.NodeProto, str]] = []
    for node, single in single_nodes(model):
        key = kind_of(single.graph)
        if key not in answers:
            answers[key] = opens(single)
        if answers[key]:
            refused.append((node, answers[key]))
    return refused
