"""Convolutions and pools over one axis as ones over two, of which the first has one step.

ONNX Runtime keeps its blocked layout, and its fused kernels, for two.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["flat"]

OPSET = 13
"""The first whose Squeeze and Unsqueeze take their axes as an input."""
WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool"})
ALIKE = frozenset(
    {
        "Relu",
        "Clip",
        "LeakyRelu",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Elu",
        "Erf",
        "Gelu",
        "Sqrt",
        "Neg",
        "Exp",
        "Abs",
    }
    | {"BatchNormalization", "InstanceNormalization", "GlobalAveragePool", "GlobalMaxPool"}
)
"""Operators that compute each value, or each channel, from their first input alone: one axis more changes nothing."""
JOINING = frozenset({"Add", "Mul", "Sub", "Div", "Pow"})


def flat(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with its operators over one axis as ones over two; None where there are none."""
    if not any(entry.domain in ("", "ai.onnx") and entry.version >= OPSET for entry in model.opset_import):
        return None
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied if _Flat(copied).write() else None


class _Flat:
    """`lifted`: the name, with an axis more, of each tensor that has one; a tensor gets its axis back where one reads it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.lifted: dict[str, str] = {}
        self.lacking: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.axis = "flat_axis"

    def write(self) -> bool:
        """Rewrite the graph in place; whether there was something to rewrite."""
        nodes = list(self.graph.node)
        for node in nodes:
            new = (
                None
                if node.domain or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
                else self._new(node)
            )
            if new is None:
                for name in node.input:
                    self._lower(name)
                self.nodes.append(node)
                continue
            new.output[:] = [f"{node.output[0]}_flat"]
            self.lifted[node.output[0]] = new.output[0]
            self.lacking.add(node.output[0])
            self.nodes.append(new)
        for value in self.graph.output:
            self._lower(value.name)
        if not self.lifted:
            return False
        self.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), self.axis))
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        return True

    def _new(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The node with an axis more, if it is one over a single axis, or one whose inputs have an axis more already."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        if len(node.output) != 1:
            return None
        if node.op_type in WINDOWED:
            return self._window(new)
        first = node.input[0] if node.input else ""
        if node.op_type in ALIKE and first in self.lifted:
            new.input[0] = self.lifted[first]
            return new
        channels = node.op_type == "Concat" and [a.i for a in node.attribute] == [1]
        if (node.op_type in JOINING or channels) and any(name in self.lifted for name in node.input):
            operands = [self._operand(name) for name in node.input]
            if all(operands):
                new.input[:] = [name for name in operands if name]
                return new
        return None

    def _window(self, new: onnx.NodeProto) -> onnx.NodeProto | None:
        said = {a.name: a for a in new.attribute}
        weight = self.constants.get(new.input[1]) if new.op_type == "Conv" else None
        if new.op_type == "Conv" and (weight is None or len(weight.dims) != 3):
            return None
        if weight is not None and "kernel_shape" not in said:
            new.attribute.append(helper.make_attribute("kernel_shape", [weight.dims[2]]))
            said["kernel_shape"] = new.attribute[-1]
        if len(said["kernel_shape"].ints) != 1:
            return None
        for name, before in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
            if name in said:
                said[name].ints[:] = [before, *said[name].ints]
        if "pads" in said:
            low, high = said["pads"].ints
            said["pads"].ints[:] = [0, low, 0, high]
        if weight is not None:
            new.input[1] = self._unsqueezed(weight.name, 2)
        if new.input[0] not in self.lifted:
            self.lifted[new.input[0]] = f"{new.input[0]}_flat"
            self.nodes.append(helper.make_node("Unsqueeze", [new.input[0], self.axis], [f"{new.input[0]}_flat"]))
        new.input[0] = self.lifted[new.input[0]]
        return new

    def _operand(self, name: str) -> str | None:
        """What stands for an operand with an axis more; None if nothing does."""
        if name in self.lifted:
            return self.lifted[name]
        if name not in self.constants:
            return None
        rank = len(self.constants[name].dims)
        return name if rank < 2 else self._unsqueezed(name, rank - 1)

    def _unsqueezed(self, name: str, axis: int) -> str:
        """A constant with an axis of one more."""
        new = f"{name}_flat"
        if new not in self.constants:
            values = np.expand_dims(numpy_helper.to_array(self.constants[name]), axis)
            self.constants[new] = numpy_helper.from_array(np.ascontiguousarray(values), new)
            self.graph.initializer.append(self.constants[new])
        return new

    def _lower(self, name: str) -> None:
        """The tensor without its axis, for one who reads it so."""
        if name in self.lacking:
            self.nodes.append(helper.make_node("Squeeze", [self.lifted[name], self.axis], [name]))
            self.lacking.discard(name)
