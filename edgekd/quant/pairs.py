"""Quantize/dequantize pairs written around the chosen operators of a float ONNX graph, and around no other. No torch.

Activations are u8 with a zero point, per tensor; weights s8 around zero, per output channel; biases int32 of scale s_x · s_w.
What runs in float keeps its float weights, and reads a float tensor as it is: only an integer operator reads rounded values.

Source: Jacob et al. 2018, arXiv 1712.05877, section 2.1 (equation 1) and 2.4 (biases).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.backend import Array
from edgekd.quant.lift import Held
from edgekd.quant.sites import DYNAMIC, FREE, Site, Span

__all__ = ["place"]

DOMAIN = "com.microsoft"
"""Of ONNX Runtime's own operators: the integer forms of recurrent ones."""
TINY = float(np.finfo(np.float32).tiny)


def place(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    keep: Collection[str],
    ranges: Mapping[str, Span],
    held: Held | None = None,
) -> onnx.ModelProto:
    """A copy of the numbered float model, of opset 13 or newer, in which the sites named in `keep` run as integers.

    `held`: the scales and integers of a quantized program, instead of those that ranges and weights give; biases stay float.
    """
    placed, kept = onnx.ModelProto(), [site for site in sites if site.name in keep]
    placed.CopyFrom(model)
    own = any(site.kind in DYNAMIC for site in kept)
    if own and DOMAIN not in {entry.domain for entry in placed.opset_import}:
        placed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    _Writer(placed, kept, ranges, held).write()
    return placed


class _Writer:
    """Writes into `model`: a pair behind each integer operator, and one for each float tensor that an integer one reads."""

    def __init__(
        self, model: onnx.ModelProto, sites: Sequence[Site], ranges: Mapping[str, Span], held: Held | None
    ) -> None:
        self.graph, self.ranges, self.held = model.graph, ranges, held
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sites = {site.name: site for site in sites}
        self.made = {site.output: site for site in sites if site.kind not in DYNAMIC}
        self.read = {name for site in sites for name in site.reads}
        self.outputs = {value.name for value in model.graph.output}
        self.written: dict[str, str] = {}
        self.before: list[onnx.NodeProto] = []
        self.names = {*self.constants, *(n for node in model.graph.node for n in (*node.input, *node.output))}

    def write(self) -> None:
        nodes = list(self.graph.node)
        for value in self.graph.input:
            if value.name in self.read and value.name not in self.constants:
                self._pair(value.name, value.name, self._fresh(f"{value.name}_d"))
        for node in nodes:
            site = self.sites.get(node.name)
            if site is not None and site.kind in DYNAMIC:
                self._dynamic(node)
            elif site is not None:
                self._weights(site, node)
                self._activations(site, node)
            self.before.append(node)
            for name in node.output:
                self._behind(node, name)
        del self.graph.node[:]
        self.graph.node.extend(self.before)
        used = {name for node in self.graph.node for name in node.input} | self.outputs
        kept = [tensor for tensor in self.constants.values() if tensor.name in used]
        del self.graph.initializer[:], self.graph.value_info[:]
        self.graph.initializer.extend(kept)

    def _behind(self, node: onnx.NodeProto, name: str) -> None:
        """The pair behind what a node makes: everyone reads it if an integer kernel made it, else only integer operators do."""
        site = self.made.get(name)
        if site is None:
            if name in self.read:
                self._pair(name, name, self._fresh(f"{name}_d"))
            return
        if site.kind in FREE and len(site.nodes) == 1 and name not in self.read:
            return  # its kernel gives floats
        raw = self._fresh(f"{name}_r")
        node.output[:] = [raw if one == name else one for one in node.output]
        self._pair(name, raw, name)

    def _pair(self, name: str, source: str, result: str) -> None:
        """source → QuantizeLinear → DequantizeLinear → result, on the grid of the tensor `name`."""
        scale, zero = self._grid(name)
        grid = [self._constant(f"{name}_scale", scale), self._constant(f"{name}_zero", zero)]
        quantized = self._fresh(f"{name}_q")
        self.before.append(helper.make_node("QuantizeLinear", [source, *grid], [quantized], name=quantized))
        self.before.append(helper.make_node("DequantizeLinear", [quantized, *grid], [result], name=f"{quantized}d"))
        self.written[name] = result

    def _grid(self, name: str) -> tuple[Array, Array]:
        """Scale and zero point of a tensor: those held, or of u8; of its source where an integer operator only moved the values."""
        if self.held is not None:
            return self.held.grids[name]
        site = self.made.get(name)
        while site is not None and site.moves:
            (name,) = site.reads
            site = self.made.get(name)
        return affine(*self.ranges[name][:2])

    def _activations(self, site: Site, node: onnx.NodeProto) -> None:
        for index, name in enumerate(node.input):
            if name in site.reads and (index == 0 or not site.moves):
                node.input[index] = self.written[name]

    def _weights(self, site: Site, node: onnx.NodeProto) -> None:
        if self.held is not None:
            for index, name in enumerate(node.input):
                if name in site.constants or (site.weight is not None and name == site.weight[0]):
                    one = self.held.constants[name]
                    node.input[index] = self._dequantized(name, one.integers, one.scale, one.zero, one.axis)
            return
        for index, name in enumerate(node.input):
            if name in site.constants:
                values = self._array(name)
                scale, zero = affine(min(float(values.min()), 0.0), max(float(values.max()), 0.0))
                held = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
                node.input[index] = self._dequantized(name, held, scale, zero, None)
        if site.weight is None:
            return
        name, axis = site.weight
        values = self._array(name)
        scale = symmetric(values, axis)
        spread = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        held = np.clip(np.rint(values / spread), -127, 127).astype(np.int8)
        node.input[1] = self._dequantized(name, held, scale, np.zeros(scale.shape, np.int8), axis)
        if not site.bias:
            return
        step = (self._grid(site.reads[0])[0] * scale).astype(np.float32).reshape(-1)
        bias = self._array(site.bias).reshape(-1)
        whole = np.clip(np.rint(bias.astype(np.float64) / step), -(2**31), 2**31 - 1).astype(np.int32)
        node.input[2] = self._dequantized(site.bias, whole, step, np.zeros(step.shape, np.int32), 0)

    def _dynamic(self, node: onnx.NodeProto) -> None:
        """ONNX Runtime's integer form of a recurrent operator: weights s8, transposed; their scales behind the eight inputs."""
        node.op_type, node.domain = f"DynamicQuantize{node.op_type}", DOMAIN
        node.input.extend([""] * (8 - len(node.input)))
        for index in (1, 2):
            name = node.input[index]
            values = self._array(name)  # [directions, gates, inputs]
            scale = np.maximum(np.abs(values).max(2) / np.float32(127), np.float32(TINY))
            held = np.clip(np.rint(values / scale[..., None]), -127, 127).astype(np.int8).transpose(0, 2, 1)
            node.input[index] = self._constant(f"{name}_i", np.ascontiguousarray(held))
            zeros = np.zeros(scale.shape, np.int8)
            node.input.extend([self._constant(f"{name}_is", scale), self._constant(f"{name}_iz", zeros)])

    def _dequantized(self, name: str, held: Array, scale: Array, zero: Array, axis: int | None) -> str:
        """A constant as integers behind a DequantizeLinear; returns what that makes."""
        inputs = [self._constant(f"{name}_{part}", value) for part, value in (("i", held), ("is", scale), ("iz", zero))]
        result = self._fresh(f"{name}_id")
        node = helper.make_node("DequantizeLinear", inputs, [result], name=result)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.before.append(node)
        return result

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self.constants[name])

    def _constant(self, name: str, value: Array) -> str:
        name = self._fresh(name)
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def _fresh(self, name: str) -> str:
        """A name that the graph does not have yet."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def affine(low: float, high: float) -> tuple[Array, Array]:
    """Scale and zero point of u8 over [low, high], which holds 0: x ≈ (q − z) · s.

    >>> affine(-1.0, 4.1)
    (array(0.02, dtype=float32), array(50, dtype=uint8))
    """
    scale = max((high - low) / 255, TINY * 2**24)
    return np.asarray(scale, np.float32), np.asarray(round(-low / scale), np.uint8)


def symmetric(values: Array, axis: int | None) -> Array:
    """Scales of s8 around zero, −127 … 127: one of each channel along `axis`, or one of all.

    >>> symmetric(np.array([[1.27, -2.54], [0.0, 0.127]], np.float32), 0)
    array([0.02 , 0.001], dtype=float32)
    """
    others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    most = np.abs(values.astype(np.float64)).max(axis=others)
    return np.asarray(np.where(most > 0, np.maximum(most / 127, TINY), 1.0), np.float32)
