"""A quantized ONNX model on the grid that x86 has integer kernels for, and without what a runtime does not read. No torch.

ONNX Runtime and OpenVINO multiply unsigned activations by signed weights fastest on x86; asymmetric s8 activations keep
convolutions in float there.
"""

from __future__ import annotations

import itertools

import onnx

from edgekd.quant.rewrite import (
    biases_to_int32,
    graphs_within,
    own_zero_points,
    read_within,
    reductions_to_pools,
    s8_to_u8,
)

__all__ = ["REWRITES", "rebase", "strip"]

#: In the order that they run; each keeps every value.
REWRITES = (reductions_to_pools, s8_to_u8, own_zero_points, biases_to_int32)


def rebase(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with u8 activations, int32 biases and poolings for spatial means; s8 weights stay. Same values, exactly."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for rewrite in REWRITES:
        rewrite(copied)
    return strip_unused(copied)


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without exporter metadata, unread constants and long names; inputs and outputs keep theirs."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    strip_unused(small)
    del small.metadata_props[:]
    small.doc_string = ""
    opset = {entry.domain: entry.version for entry in small.opset_import}
    kept = {value.name for value in [*small.graph.input, *small.graph.output]}
    short: dict[str, str] = {"": "", **{name: name for name in kept}}
    numbers = itertools.count()
    for graph in [small.graph, *graphs_within(small.graph)]:  # a name means the same tensor in all of them
        del graph.value_info[:], graph.metadata_props[:]
        graph.name, graph.doc_string = "graph", ""
        for held in [*graph.initializer, *graph.input, *graph.output]:
            held.name, held.doc_string = _shorten(held.name, short), ""
            del held.metadata_props[:]
        for node in graph.node:
            node.name, node.doc_string = f"n{next(numbers)}", ""
            del node.metadata_props[:]
            _drop_default_attributes(node, opset.get(node.domain, 1))
            for names in (node.input, node.output):
                names[:] = [_shorten(name, short) for name in names]
    return small


def strip_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove, in place, the constants that no node reads, nor one of a graph inside a node."""
    for graph in [model.graph, *graphs_within(model.graph)]:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        read.update(read_within(graph))
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return model


def _shorten(name: str, short: dict[str, str]) -> str:
    """t0, t1, … in the order of asking; the same name always gets the same short one."""
    if name not in short:
        number = len(short)
        taken = short.values()
        while f"t{number}" in taken:
            number += 1
        short[name] = f"t{number}"
    return short[name]


def _value(attribute: onnx.AttributeProto) -> object:
    return onnx.helper.get_attribute_value(attribute)


def _drop_default_attributes(node: onnx.NodeProto, version: int) -> None:
    try:
        defaults = onnx.defs.get_schema(node.op_type, version, node.domain).attributes
    except onnx.defs.SchemaError:
        return
    for attribute in list(node.attribute):  # in place: a graph in one of those that stay is not copied
        default = defaults[attribute.name].default_value if attribute.name in defaults else None
        if default is not None and default.type == attribute.type and _value(default) == _value(attribute):
            node.attribute.remove(attribute)
        else:
            attribute.doc_string = ""
