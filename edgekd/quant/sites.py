"""The operators of a float ONNX graph that may run as integers, and what passes between them: what a placement is over.

Which kinds of operators a runtime has integer kernels for, from quantize/dequantize pairs, is its backend's `integers`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from edgekd.backend import Array
from edgekd.cuts import Link


class Span(NamedTuple):
    """Least and largest value of a tensor, or 0 where that is less or more; and how many values it has."""

    low: float
    high: float
    size: int = 1


WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
"""Operators whose output holds values of their input: integers pass through them on the input's grid."""
OF_ONE = frozenset({"Softmax", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"})
"""Operators of one activation; what else they are given are settings."""
BEHIND = frozenset({"Relu", "Clip"})
"""What a quantization right behind it does by itself, so that it costs nothing behind an integer kernel."""
DYNAMIC = frozenset({"LSTM"})
"""Operators that no pair turns into integers: they become ONNX Runtime's own, which draws its scales from each input."""
FREE = frozenset({"Gemm", "MatMul"})
"""Integer kernels that can give floats."""


@dataclass(frozen=True)
class Site:
    """An operator that may run as integers, with what runs inside its kernel. `nodes`: names, the operator's first.

    `reads`: the tensors that get a pair; `constants`: of an addition or a product; `weight`: (name, axis of its channels).
    """

    nodes: tuple[str, ...]
    kind: str
    reads: tuple[str, ...]
    output: str
    weight: tuple[str, int | None] | None = None
    bias: str = ""
    constants: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.nodes[0]

    @property
    def moves(self) -> bool:
        return self.kind in MOVING


def numbered(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes are called n0, n1, … in their order."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for number, node in enumerate(copied.graph.node):
        node.name = f"n{number}"
    return copied


def sites_of(model: onnx.ModelProto, kinds: frozenset[str], known: Mapping[str, Span]) -> list[Site]:
    """The sites of a numbered model, in the graph's order. `known`: its float tensors; others cannot be quantized."""
    graph = _Graph(model)
    found = []
    for node in model.graph.node:
        if node.domain or node.op_type not in kinds:
            continue
        if node.op_type in DYNAMIC:
            found += [Site((node.name,), node.op_type, (), "")] if _recurrent(graph, node) else []
            continue
        if len(node.output) != 1:
            continue
        site = _weighted(graph, node) if node.op_type in WEIGHTED else _other(graph, node)
        if site is None:
            continue
        if not site.moves:
            site = _with_behind(graph, site)
        if all(name in known for name in (*site.reads, site.output)):
            found.append(site)
    return found


class _Graph:
    """Constants, and who reads what."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def rank(self, name: str) -> int:
        return len(self.constants[name].dims)

    def size(self, name: str) -> int:
        return int(np.prod(self.constants[name].dims))

    def floats(self, name: str) -> bool:
        return name in self.constants and self.constants[name].data_type == onnx.TensorProto.FLOAT


def _recurrent(graph: _Graph, node: onnx.NodeProto) -> bool:
    """Whether a recurrent operator's weights are constants, in the layout that its integer form takes."""
    plain = not any(a.name == "layout" and a.i for a in node.attribute)
    return plain and all(map(graph.floats, node.input[1:3]))


def _weighted(graph: _Graph, node: onnx.NodeProto) -> Site | None:
    """A convolution or product; its weight is a constant, but for a MatMul of two activations."""
    first, second = node.input[:2]
    bias = node.input[2] if len(node.input) > 2 else ""
    if first in graph.constants or (bias and not graph.floats(bias)):
        return None
    if second not in graph.constants:
        both = (first, second)
        return Site((node.name,), node.op_type, both, node.output[0]) if node.op_type == "MatMul" else None
    if not graph.floats(second):
        return None
    axis: int | None = 0
    if node.op_type == "MatMul":
        axis = 1 if graph.rank(second) == 2 else None
    elif node.op_type == "Gemm":
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = said.get("alpha", 1.0) == said.get("beta", 1.0) == 1.0 and not said.get("transA", 0)
        if not plain:
            return None
        axis = 0 if said.get("transB", 0) else 1
    if bias and axis is not None and graph.size(bias) != graph.constants[second].dims[axis]:
        return None
    return Site((node.name,), node.op_type, (first,), node.output[0], (second, axis), bias)


def _other(graph: _Graph, node: onnx.NodeProto) -> Site | None:
    """What has no weights: it reads activations, and of an addition or product one float constant at most."""
    reads: Sequence[str] = node.input[:1] if node.op_type in MOVING | OF_ONE else node.input
    constants = tuple(name for name in reads if name in graph.constants)
    variable = tuple(dict.fromkeys(name for name in reads if name not in graph.constants))
    if not variable or len(constants) > 1 or not all(map(graph.floats, constants)):
        return None
    return Site((node.name,), node.op_type, variable, node.output[0], constants=constants)


def _with_behind(graph: _Graph, site: Site) -> Site:
    readers = graph.readers.get(site.output, [])
    if len(readers) != 1 or site.output in graph.outputs or readers[0].op_type not in BEHIND or readers[0].domain:
        return site
    (behind,) = readers
    if any(name and name not in graph.constants for name in behind.input[1:]):
        return site
    nodes = (*site.nodes, behind.name)
    return Site(nodes, site.kind, site.reads, behind.output[0], site.weight, site.bias, site.constants)


def links_of(model: onnx.ModelProto, sites: Sequence[Site]) -> list[Link]:
    """The tensors that sites make or read as integers, in the order of the sites."""
    sites = [site for site in sites if site.kind not in DYNAMIC]
    made = {site.output: site for site in sites}
    inside = {name: site.name for site in sites for name in site.nodes}
    reading: dict[str, list[str]] = {}
    for site in sites:
        for name in site.reads:
            reading.setdefault(name, []).append(site.name)
    outputs = {value.name for value in model.graph.output}
    elsewhere = {
        name
        for node in model.graph.node
        for name in node.input
        if node.name not in inside or inside[node.name] not in reading.get(name, ())
    }
    names = dict.fromkeys([name for site in sites for name in (*site.reads, site.output)])
    return [
        Link(
            name,
            made[name].name if name in made else None,
            tuple(reading.get(name, ())),
            leaves=name in outputs or name in elsewhere,
            free=name in made and made[name].kind in FREE and len(made[name].nodes) == 1,
        )
        for name in names
    ]


def ranges(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], observer: str = "minmax") -> dict[str, Span]:
    """Least and largest value of each float tensor that the graph's nodes read or make, over the samples.

    One that was not finite has none. `observer`: "percentile" and "entropy" are drawn by ONNX Runtime's calibrators, for the
    tensors that they cover.
    """
    from edgekd.onnx.slim import outputs_of

    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    there = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name]
    seen.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in there)
    found: dict[str, Span] = {}

    def see(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.dtype == np.float32 and value.size:
            low, high, _ = found.get(name, Span(0.0, 0.0))
            least, most = np.minimum(low, value.min()), np.maximum(high, value.max())  # NaN stays NaN
            found[name] = Span(float(least), float(most), value.size)

    names = [name for name in dict.fromkeys(made) if name not in stored]
    for feed, values in zip(feeds, outputs_of(seen, names, feeds), strict=True):
        for name, value in (*feed.items(), *zip(names, values, strict=True)):
            see(name, value)
    for name, (low, high) in _calibrated(model, feeds, observer).items() if observer != "minmax" else ():
        if name in found:
            found[name] = Span(low, high, found[name].size)
    return {name: span for name, span in found.items() if np.isfinite(span).all()}


def _calibrated(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], observer: str
) -> dict[str, tuple[float, float]]:
    """The ranges of ONNX Runtime's own calibrator."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    from edgekd.quant.onnx_ptq import quiet, reader

    method = {"entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}[observer]
    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "model.onnx"
        onnx.save(model, file)
        calibrator = create_calibrator(file, None, str(Path(folder) / "augmented.onnx"), method)
        calibrator.collect_data(reader(iter([dict(feed) for feed in feeds])))
        data = calibrator.compute_data()
    spans = {
        name: tuple(float(np.asarray(v).reshape(-1)[0]) for v in found.range_value) for name, found in data.items()
    }
    return {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in spans.items()}


def seeds(sites: Sequence[Site]) -> list[frozenset[str]]:
    """Placements to begin with: all that has weights or moves values; what is recurrent; convolutions and what joins them;

    all but what is a curve. Only such as hold something with weights, and not the one of all sites.
    """
    chosen = [
        WEIGHTED | DYNAMIC | MOVING,
        DYNAMIC,
        MOVING | {"Conv", "Add", "Concat", "AveragePool", "GlobalAveragePool"},
    ]
    found = [frozenset(site.name for site in sites if site.kind in kinds) for kinds in chosen]
    curves = {"Softmax", "Sigmoid", "LeakyRelu", "Mul"}
    found.append(frozenset(site.name for site in sites if site.kind not in curves))
    everything = frozenset(site.name for site in sites)
    weighted = {site.name for site in sites if site.weight or site.kind in DYNAMIC}
    return list(dict.fromkeys(one for one in found if one != everything and one & weighted))
