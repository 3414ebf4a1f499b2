"""Where the quantize/dequantize pairs go: edgekd's own PT2E quantizer, driven by a grid.

The aim is that the runtime keeps integers from the first layer to the last, so each operator is annotated as the unit that
a runtime has a kernel for: a convolution with its batch norm and ReLU has one output, behind the ReLU; the two branches of
a residual addition are quantized before it; what only moves values keeps its input's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache, partial
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekd.errors import UserError, nearest
from edgekd.observers.minmax import MinMax
from edgekd.quant.adapter import ActivationGrid, Observer, PerChannelWeight
from edgekd.quant.grid import Grid
from edgekd.quant.neighbours import first_and_last, nearest_layers
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.step import PerChannelStep
from edgekd.quant.torchao import (
    Q_ANNOTATION_KEY,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

__all__ = ["BATCH_NORM", "WEIGHTED", "GridQuantizer", "layer_name", "without_kernels"]

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
MULTIPLYING = ("conv", "linear", "matmul", "mm", "bmm", "addmm", "einsum", "bilinear", "lstm", "gru", "rnn_")
"""How the names of operators begin that multiply by weights."""


class GridQuantizer(Quantizer):  # type: ignore[misc]  # torchao is untyped
    """Annotates an exported graph for one grid; `observer` makes one observer for each activation."""

    def __init__(self, grid: Grid, observer: Callable[[], Observer], precision: Precision) -> None:
        self.grid, self.observer, self.precision = grid, observer, precision
        self.kind_of = {target: kind for kind, targets in KINDS.items() for target in targets}
        self.activation = cache(self._activation)  # one object for each width: PT2E shares what is equal
        self.weight = cache(self._weight)
        self.bits: dict[Node, int] = {}
        self.ends: set[Node] = set()
        self.takers: set[Node] = set()
        self.floats: set[Node] = set()

    def _activation(self, bits: int) -> QuantizationSpec:
        low, high = self.grid.activation_limits(bits)
        scheme = torch.per_tensor_symmetric if self.grid.activation_symmetric else torch.per_tensor_affine
        adapter = ActivationGrid.with_args(observer=_of_levels(self.observer, bits))
        return QuantizationSpec(torch.int8 if bits <= 8 else torch.int16, adapter, low, high, scheme)

    def _weight(self, bits: int) -> QuantizationSpec:
        low, high = self.grid.weight_limits(bits)
        symmetric = self.grid.weight_symmetric(bits)
        scheme = torch.per_channel_symmetric if symmetric else torch.per_channel_affine
        search = bits < 8 and self.observer is not MinMax
        stored = bits < 8 or self.precision.stored
        adapter = PerChannelStep.with_args(search=search) if stored else PerChannelWeight
        return QuantizationSpec(torch.int8, adapter, low, high, scheme, 0)

    def weight_bits(self, layer: Node) -> int:
        """How many bits the weight of a layer gets."""
        wide = max(self.precision.weights, self.precision.first_last)
        name, least = layer_name(layer), wide if layer in self.ends else self.precision.weights
        return FLOAT if name in self.precision.grouped else self.precision.layers.get(name, least)

    def annotate(self, model: GraphModule) -> GraphModule:
        nodes = list(model.graph.nodes)
        self.ends = first_and_last(nodes, WEIGHTED)
        self.bits = self._activation_bits(nodes)
        if unknown := sorted(
            {*self.precision.layers, *self.precision.grouped} - {layer_name(n) for n in nodes if n.target in WEIGHTED}
        ):
            known = [layer_name(n) for n in nodes if n.target in WEIGHTED]
            raise UserError(f'no layer "{unknown[0]}" whose weights could get bits', hint=nearest(unknown[0], known))
        self.takers, self.floats = self._in_float(nodes)
        self.floats |= self._alone(nodes)
        for node in nodes:
            if node.op != "call_function" or Q_ANNOTATION_KEY in node.meta or not _is_float(node):
                continue
            kind = self.kind_of.get(node.target)
            if node in self.floats and node.target not in WEIGHTED:
                _mark(node, {}, None)
            elif kind in self.grid.operators:
                self._annotate_operator(node, kind)
            elif kind in self.grid.shared and _is_float(node.args[0]):
                spec = self.activation(self.bits[node.args[0]])
                _mark(node, {node.args[0]: spec}, SharedQuantizationSpec((node.args[0], node)))
        return model

    def _activation_bits(self, nodes: list[Node]) -> dict[Node, int]:
        """Each tensor's bits, by what reads it, through what keeps its input's grid too.

        Layers multiply `activations` bits, first and last layers and the output have `first_last` at least; what is only
        added or pooled has 8 at least, as in the literature, where only what a layer reads is quantized.
        """
        roots, readers = dict[Node, Node](), dict[Node, set[Node]]()
        for node in nodes:
            source = node.args[0] if self.kind_of.get(node.target) in self.grid.shared else None
            shared = isinstance(source, Node)
            roots[node] = roots[source] if isinstance(source, Node) else node
            for source in node.all_input_nodes:
                readers.setdefault(roots[source], set()).update(() if shared else {node})
        narrow, bits = self.precision.activations, dict[Node, int]()
        for root, found in readers.items():
            if any(node in self.ends or node.op == "output" for node in found):
                bits[root] = max(narrow, self.precision.first_last)
            else:
                bits[root] = narrow if any(node.target in WEIGHTED for node in found) else max(narrow, 8)
        return {node: bits.get(root, narrow) for node, root in roots.items()}

    def _in_float(self, nodes: list[Node]) -> tuple[set[Node], set[Node]]:
        """The layers that stay in float with what only moves values to them, and these with all else that stays so.

        An operator without weights goes with the layers next before it: it is in float where one of them is, or, where there is
        none, one of those behind it.
        """
        layers = {node for node in nodes if node.target in WEIGHTED and self.weight_bits(node) == FLOAT}
        takers = set(layers)
        for node in reversed(nodes):
            if self.kind_of.get(node.target) in self.grid.shared and node.users and takers.issuperset(node.users):
                takers.add(node)
        before, behind = nearest_layers(nodes, WEIGHTED)
        return takers, takers | {n for n in nodes if n.target not in WEIGHTED and (before[n] or behind[n]) & layers}

    def _alone(self, nodes: list[Node]) -> set[Node]:
        """Operators whose integers nobody would multiply: a pair around them costs a pass and a rounding, and buys nothing.

        What computes without weights is kept where a chain of the grid's operators leads from it to a layer or out of the
        network; what only moves values, where such a chain joins it to a layer, but not behind a linear layer, which can give
        floats. So the sums of a transformer, which its norms read, stay in float, and its queries, keys and values; and so does
        its mask, beside whose −6e4 the scores would have no level of 8 bits left.
        """
        named = {*self.grid.operators, *self.grid.shared}
        there = {n for n in nodes if (self.kind_of.get(n.target) in named or n.target is BATCH_NORM) and _is_float(n)}
        joined = {n for n in there if n.target in WEIGHTED}
        useful = joined | {n for n in nodes if n.op == "output"}
        for node in reversed(nodes):
            if node in there and not useful.isdisjoint(node.users):
                useful.add(node)
        edge = list(joined)
        while edge:
            node = edge.pop()
            near = there.intersection((*node.all_input_nodes, *node.users)) - joined
            joined |= near
            edge += near
        moving = {*self.grid.shared} - {"dropout"}  # which moves nothing: it is the identity here
        free = set[Node]()  # floats that a linear layer gives, where they lie since
        for node in nodes:
            gives = node.target in KINDS["linear"] and self.grid.float_logits
            if gives or (self.kind_of.get(node.target) in self.grid.shared and node.args[0] in free):
                free.add(node)
        kept = joined - (free - useful)
        return {n for n in there if n not in (kept if self.kind_of.get(n.target) in moving else useful)}

    def validate(self, model: GraphModule) -> None:
        """Every annotated weight is a constant of the graph by construction; nothing else can be wrong."""

    def _annotate_operator(self, node: Node, kind: str) -> None:
        inputs = list(_tensors(node.args[0] if kind == "concat" else node.args[: 2 if kind in ("add", "mul") else 1]))
        weighted = node.target in WEIGHTED
        if not all(_is_float(x) for x in inputs) or (kind in ("add", "mul") and len(inputs) < 2):
            return
        if weighted and not _is_constant(node.args[1]):
            return
        last = node if kind in self.grid.fused else self._end(node)
        keeps_float = (
            kind == "linear"
            and self.grid.float_logits
            and (_ends_network(last) or (last is node and self._read_in_float(node)))
        )
        keeps_float = keeps_float or self._only_float_layers_read(last)
        for absorbed in () if last is node else _between(node, last):
            _mark(absorbed, {}, None)
        if weighted and self.weight_bits(node) == FLOAT:
            _mark(node, {}, None)
            _mark(last, {}, None)
            return
        wanted = {x: self.activation(self.bits[x]) for x in inputs}
        if weighted:
            wanted[node.args[1]] = self.weight(self.weight_bits(node))  # type: ignore[index]  # a get_attr node, as just checked
        output = None if keeps_float else self.activation(self.bits[last])
        _mark(node, wanted, output if last is node else None)
        if last is not node:
            _mark(last, {}, output)

    def _read_in_float(self, node: Node) -> bool:
        """Whether whatever reads the node computes in float."""
        named = {*self.grid.operators, *self.grid.shared}
        return all(user in self.floats or self.kind_of.get(user.target) not in named for user in node.users)

    def _only_float_layers_read(self, node: Node) -> bool:
        return bool(node.users) and self.takers.issuperset(node.users)

    def _end(self, node: Node) -> Node:
        """The last node of the unit that starts here: [batch norm] [one fused activation], each the only user."""
        end = node
        if node.target in WEIGHTED and (user := _only_user(end)) is not None and user.target is BATCH_NORM:
            end = user
        user = _only_user(end)
        if user is not None and self.kind_of.get(user.target) in self.grid.fused:
            end = user
        return end


def layer_name(layer: Node) -> str:
    """What a layer of the student is called, by its weight: "middle.0.first.0"."""
    weight = layer.args[1]
    while isinstance(weight, Node) and weight.op == "call_module":
        weight = weight.args[0]
    return str(getattr(weight, "target", "")).removesuffix(".weight")


def _of_levels(observer: Callable[[], Observer], bits: int) -> Callable[[], Observer]:
    """The observer for a grid of that many bits: told its levels where it asks; above 8 bits, clipping buys nothing."""
    if bits > 8:
        return MinMax
    kind = observer.func if isinstance(observer, partial) else observer
    asks = is_dataclass(kind) and any(field.name == "levels" for field in fields(kind))
    levelled: Callable[..., Observer] = observer
    return partial(levelled, levels=2**bits) if bits < 8 and asks else observer


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


def without_kernels(graph: GraphModule) -> dict[str, str]:
    """Layers with weights that no grid quantizes, since no runtime here multiplies them in integers: operator by name."""
    found = {}
    for node in graph.graph.nodes:
        operator = str(getattr(node.target, "_opname", "")) if node.op == "call_function" else ""
        held = [source for source in node.all_input_nodes if source.op == "get_attr"]
        if held and node.target not in WEIGHTED and operator.startswith(MULTIPLYING):
            found[str(held[0].target).rpartition(".")[0] or operator] = operator
    return found
