"""Where the quantize/dequantize pairs go: edgekd's own PT2E quantizer, driven by a grid.

The aim is that the runtime keeps integers from the first layer to the last, so each operator is annotated as the unit that
a runtime has a kernel for: a convolution with its batch norm and ReLU has one output, behind the ReLU; the two branches of
a residual addition are quantized before it; what only moves values keeps its input's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekd.quant.adapter import ActivationGrid, Observer, PerChannelWeight
from edgekd.quant.grid import Grid
from edgekd.quant.torchao import (
    Q_ANNOTATION_KEY,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

__all__ = ["BATCH_NORM", "WEIGHTED", "GridQuantizer"]

aten = torch.ops.aten

#: The operators of each kind that a grid may name.
KINDS: dict[str, tuple[Any, ...]] = {
    "conv2d": (aten.conv2d.default, aten.conv2d.padding),
    "linear": (aten.linear.default,),
    "add": (aten.add.Tensor,),
    "mul": (aten.mul.Tensor,),
    "concat": (aten.cat.default,),
    "average_pool": (aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim),
    "relu": (aten.relu.default,),
    "clamp": (aten.hardtanh.default, aten.relu6.default, aten.clamp.default),
    "sigmoid": (aten.sigmoid.default,),
    "max_pool": (aten.max_pool2d.default, aten.amax.default),
    "dropout": (aten.dropout.default,),
    "reshape": (
        aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int,
        aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.contiguous.default,
        aten.clone.default, aten.unflatten.int,
    ),
}  # fmt: skip
WEIGHTED = (*KINDS["conv2d"], *KINDS["linear"])
BATCH_NORM = aten.batch_norm.default


class GridQuantizer(Quantizer):  # type: ignore[misc]  # torchao is untyped
    """Annotates an exported graph for one grid; `observer` makes one observer for each activation."""

    def __init__(self, grid: Grid, observer: Callable[[], Observer]) -> None:
        self.grid = grid
        low, high = grid.activation_limits
        scheme = torch.per_tensor_symmetric if grid.activation_symmetric else torch.per_tensor_affine
        activation = ActivationGrid.with_args(observer=observer)
        self.activation = QuantizationSpec(torch.int8, activation, low, high, scheme)
        self.weight = QuantizationSpec(torch.int8, PerChannelWeight, -127, 127, torch.per_channel_symmetric, 0)
        self.kind_of = {target: kind for kind, targets in KINDS.items() for target in targets}

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if node.op != "call_function" or Q_ANNOTATION_KEY in node.meta or not _is_float(node):
                continue
            kind = self.kind_of.get(node.target)
            if kind in self.grid.operators:
                self._annotate_operator(node, kind)
            elif kind in self.grid.shared and _is_float(node.args[0]):
                _mark(node, {node.args[0]: self.activation}, SharedQuantizationSpec((node.args[0], node)))
        return model

    def validate(self, model: GraphModule) -> None:
        """Every annotated weight is a constant of the graph by construction; nothing else can be wrong."""

    def _annotate_operator(self, node: Node, kind: str) -> None:
        inputs = list(_tensors(node.args[0] if kind == "concat" else node.args[: 2 if kind in ("add", "mul") else 1]))
        weighted = node.target in WEIGHTED
        if not all(_is_float(x) for x in inputs) or (kind in ("add", "mul") and len(inputs) < 2):
            return
        if weighted and not _is_constant(node.args[1]):
            return
        wanted: dict[Node, QuantizationSpecBase] = dict.fromkeys(inputs, self.activation)
        if weighted:
            wanted[node.args[1]] = self.weight  # type: ignore[index]  # a get_attr node, as just checked
        last = node if kind in self.grid.fused else self._end(node)
        keeps_float = kind == "linear" and self.grid.float_logits and _ends_network(last)
        if last is not node:
            for absorbed in _between(node, last):
                _mark(absorbed, {}, None)
        if last is node:
            _mark(node, wanted, None if keeps_float else self.activation)
        else:
            _mark(node, wanted, None)
            _mark(last, {}, None if keeps_float else self.activation)

    def _end(self, node: Node) -> Node:
        """The last node of the unit that starts here: [batch norm] [one fused activation], each the only user."""
        end = node
        if node.target in WEIGHTED and (user := _only_user(end)) is not None and user.target is BATCH_NORM:
            end = user
        user = _only_user(end)
        if user is not None and self.kind_of.get(user.target) in self.grid.fused:
            end = user
        return end


def _mark(node: Node, inputs: dict[Node, QuantizationSpecBase], output: QuantizationSpecBase | None) -> None:
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


def _between(first: Node, last: Node) -> Iterator[Node]:
    node = last.args[0]
    while isinstance(node, Node) and node is not first:
        yield node
        node = node.args[0]


def _tensors(args: Any) -> Iterator[Node]:
    yield from (a for a in args if isinstance(a, Node))


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_float(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _is_constant(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _ends_network(node: Node) -> bool:
    """Whether every use of the node's value is an output of the network."""
    return all(user.op == "output" for user in node.users)
