"""A quantized ONNX program as a float graph, and the scales and integers that its pairs held: each can go back where it was.

Weights are the program's own in float, integer · scale, not the float student's: what calibration, reconstruction or training
made of them stays, and a program with fewer pairs differs from the whole one by nothing but rounding that it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from edgekd.backend import Array
from edgekd.onnx.file import constants_to_initializers
from edgekd.quant.rebase import strip_unused
from edgekd.quant.rewrite import Index, read_within, reductions_to_pools
from edgekd.quant.sites import DYNAMIC, FREE, MOVING, WEIGHTED, Site, Span, sites_of

__all__ = ["Constant", "Held", "lift"]


@dataclass(frozen=True)
class Constant:
    """w = (integers − zero) · scale, along `axis` where there is a scale for each of its channels."""

    integers: Array
    scale: Array
    zero: Array
    axis: int | None

    def floats(self) -> Array:
        shape = [-1 if i == self.axis else 1 for i in range(self.integers.ndim)] if self.axis is not None else []
        scale, zero = self.scale.reshape(shape), self.zero.astype(np.int32).reshape(shape)
        return np.asarray((self.integers.astype(np.int32) - zero) * scale, np.float32)

    def transposed(self) -> Constant:
        """With its axes in the reverse order."""
        axis = None if self.axis is None else self.integers.ndim - 1 - self.axis
        return Constant(np.ascontiguousarray(self.integers.transpose()), self.scale, self.zero, axis)


@dataclass(frozen=True)
class Held:
    """What the pairs held: (scale, zero point) of each quantized tensor, and the constants, by their names in the float graph.

    `moved`: whether the graph was folded since, so that with all pairs back it is not the program that came.
    """

    grids: Mapping[str, tuple[Array, Array]]
    constants: Mapping[str, Constant]
    moved: bool = False

    def folded(self, model: onnx.ModelProto) -> Held:
        """The same of the float graph as a folding left it: what only holds quantized values has their grid, or their integers.

        Folding writes reshapes around a product of more than two axes, and transposes its weight. What the program moved in
        float, to a reader without weights, has no grid here either.
        """
        grids, index = dict(self.grids), Index(model)
        moves = [node for node in model.graph.node if node.op_type in MOVING - {"MaxPool"}]
        multiplied = set[str]()
        for node in reversed(model.graph.node):
            weighted = node.op_type in WEIGHTED and node.input[1] in index.constants
            if weighted or (node.op_type in MOVING and node.output[0] in multiplied):
                multiplied.add(node.input[0])
        for node in moves:
            if node.input[0] in grids and node.output[0] in multiplied:
                grids.setdefault(node.output[0], grids[node.input[0]])
        for node in reversed(moves):
            if node.output[0] in grids and index.only_reader(node.input[0]) is not None:
                grids.setdefault(node.input[0], grids[node.output[0]])
        by_value = {_value(one.floats()): one for held in self.constants.values() for one in (held.transposed(), held)}
        found = {name: by_value.get(_value(index.array(name))) for name in index.constants}
        constants = {name: self.constants.get(name, one) for name, one in found.items() if one is not None}
        return Held(
            grids, constants, not (grids.keys() <= self.grids.keys() and constants.keys() <= self.constants.keys())
        )

    def sites(self, model: onnx.ModelProto, kinds: frozenset[str], known: Mapping[str, Span]) -> list[Site]:
        """The operators of these kinds that the program ran as integers."""
        return [site for site in sites_of(model, kinds - DYNAMIC, known) if self._has(site)]

    def _has(self, site: Site) -> bool:
        behind = () if site.kind in FREE and len(site.nodes) == 1 else (site.output,)
        constants = (*site.constants, *((site.weight[0],) if site.weight else ()))
        return {*site.reads, *behind} <= self.grids.keys() and self.constants.keys() >= {*constants}

    def covered_by(self, sites: Iterable[Site]) -> bool:
        """Whether these sites, all of them in integers, are the program as it came."""
        found = list(sites)
        tensors = {name for site in found for name in (*site.reads, site.output)}
        constants = {name for site in found for name in (*site.constants, *((site.weight or ("",))[:1]))}
        return not self.moved and self.grids.keys() <= tensors and self.constants.keys() <= constants


def lift(program: onnx.ModelProto) -> tuple[onnx.ModelProto, Held]:
    """The float graph of a program (as exported, or re-based), and what its pairs held. The program stays as it is.

    A pair whose integers something else reads, or that quantizes anew what was on another grid, stays in the graph.
    """
    model = onnx.ModelProto()
    model.CopyFrom(program)
    constants_to_initializers(model)
    reductions_to_pools(model)
    lifting = _Lifting(model)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(lifting.kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(held.floats(), name) for name, held in lifting.constants.items()
    )
    strip_unused(model)
    return model, Held(lifting.grids, lifting.constants)


class _Lifting:
    """Goes through the nodes in order; `kept` are those of the float graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.index = Index(model)
        self.within, self.outputs = set(read_within(model.graph)), {value.name for value in model.graph.output}
        self.kept: list[NodeProto] = []
        self.grids: dict[str, tuple[Array, Array]] = {}
        self.constants: dict[str, Constant] = {}
        self._floats: dict[str, str] = {}
        """The float tensor that each tensor stands for: integers, and what dequantizes them."""
        for node in model.graph.node:
            node.input[:] = [self._floats.get(name, name) if self._dequantized(name) else name for name in node.input]
            if not (self._quantize(node) or self._dequantize(node)):
                self.kept.append(node)
        for name in sorted(self.outputs & self._floats.keys()):
            self._name(self._floats[name], name)

    def _dequantized(self, name: str) -> bool:
        maker = self.index.maker.get(name)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def _grid(self, node: NodeProto) -> tuple[Array, Array] | None:
        """Scale and zero point of a whole tensor, both constants."""
        if len(node.input) < 3 or any(a.name in ("output_dtype", "block_size") and a.i for a in node.attribute):
            return None
        scale, zero = (self.index.array(name) for name in node.input[1:3])
        return (scale, zero) if scale is not None and zero is not None and scale.size == 1 else None

    def _quantize(self, node: NodeProto) -> bool:
        """Whether it was one end of a pair."""
        if node.op_type != "QuantizeLinear" or node.input[0] in self.index.constants:
            return False
        grid, readers = self._grid(node), self.index.readers[node.output[0]]
        if grid is None or not readers or node.output[0] in self.index.outside:
            return False
        for reader in readers:
            theirs = self._grid(reader) if reader.op_type == "DequantizeLinear" else None
            if theirs is None or not _same(grid, theirs) or reader.output[0] in self.within:
                return False
        name = node.input[0]
        if not _same(self.grids.setdefault(name, grid), grid):
            return False
        self._floats.update(dict.fromkeys([node.output[0], *(reader.output[0] for reader in readers)], name))
        return True

    def _dequantize(self, node: NodeProto) -> bool:
        """Whether it was the other end of a pair, or made a constant."""
        if node.op_type != "DequantizeLinear":
            return False
        if node.input[0] in self._floats:
            return True
        integers, scale = (self.index.array(name) for name in node.input[:2])
        if integers is None or scale is None or any(a.name == "block_size" and a.i for a in node.attribute):
            return False
        zero = self.index.array(node.input[2]) if len(node.input) > 2 else np.zeros(scale.shape, integers.dtype)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % max(integers.ndim, 1)
        if zero is None or node.output[0] in self.index.outside:
            return False
        self.constants[node.output[0]] = Constant(integers, scale, zero, axis if scale.ndim else None)
        return True

    def _name(self, tensor: str, output: str) -> None:
        """Call a tensor what the graph gives out, which was its dequantized form."""
        if tensor in self.index.maker and tensor not in self.outputs and tensor not in self.within:
            for node in self.kept:
                for names in (node.input, node.output):
                    names[:] = [output if name == tensor else name for name in names]
            self.grids[output] = self.grids.pop(tensor)
            self._floats = {name: output if stands == tensor else stands for name, stands in self._floats.items()}
        else:
            self.kept.append(helper.make_node("Identity", [tensor], [output]))


def _same(a: tuple[Array, Array], b: tuple[Array, Array]) -> bool:
    return all(x.dtype == y.dtype and np.array_equal(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True))


def _value(array: Array | None) -> tuple[object, ...]:
    return () if array is None else (array.dtype.name, array.shape, array.tobytes())
