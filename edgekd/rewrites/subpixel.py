"""Transposed convolutions as convolutions to a pixel of each phase, and a shuffle of those.

They then have the convolutions' kernels, in float and in integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.rewrites.flat import ELEMENTWISE

__all__ = ["subpixel"]


@dataclass(frozen=True)
class Phases:
    """A transposed convolution's other form: a convolution, whose pixels of `step` × `step` phases are shuffled, then cropped.

    `pads`: rows and columns to crop, as the operator's own attribute has them: top, left, bottom, right.
    """

    convolution: onnx.NodeProto
    constants: list[onnx.TensorProto]
    step: int
    pads: list[int]


def subpixel(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with its transposed convolutions as sub-pixel ones; None where there are none.

    Source: Shi et al. 2016, arXiv 1609.07009, section 2.1: both compute the same, for a kernel cut into its phases.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input) + Counter(
        value.name for value in graph.output
    )
    behind = {node.input[0]: node for node in graph.node if node.op_type in ELEMENTWISE and len(node.input) == 1}
    moved: set[str] = set()
    made: list[onnx.NodeProto] = []
    found = False
    for node in graph.node:
        if node.output[0] in moved:
            continue
        phases = _phases(node, constants) if node.op_type == "ConvTranspose" and not node.domain else None
        if phases is None:
            made.append(node)
            continue
        found = True
        graph.initializer.extend(phases.constants)
        made.append(phases.convolution)
        last, result = phases.convolution.output[0], node.output[0]
        curve = behind.get(result)
        if (
            curve is not None and readers[result] == 1
        ):  # of each value alone, so that it may be taken before the shuffle
            moved.add(curve.output[0])
            result = curve.output[0]
            copy = onnx.NodeProto()
            copy.CopyFrom(curve)
            copy.input[0], copy.output[0] = last, f"{last}_behind"
            made.append(copy)
            last = copy.output[0]
        shuffled = f"{last}_shuffled" if any(phases.pads) else result
        made.append(helper.make_node("DepthToSpace", [last], [shuffled], blocksize=phases.step, mode="DCR"))
        if any(phases.pads):
            top, left, bottom, right = phases.pads
            ends = [-bottom or np.iinfo(np.int64).max, -right or np.iinfo(np.int64).max]
            given = {"starts": [top, left], "ends": ends, "axes": [2, 3]}
            names = [f"{shuffled}_{name}" for name in given]
            graph.initializer.extend(
                numpy_helper.from_array(np.array(value, np.int64), name)
                for name, value in zip(names, given.values(), strict=True)
            )
            made.append(helper.make_node("Slice", [shuffled, *names], [result]))
    kept = list(made)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return copied if found else None


def _phases(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> Phases | None:
    """None if the operator has no such form, or its output size is not that of stride and kernel alone.

    Without pads, y[s q + r] = Σ_d x[q − d] w[s d + r]: the taps d = 0 … ⌈k / s⌉ − 1 of phase r, the last first, are its kernel;
    where s d + r is no tap of w they are zero.
    """
    said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = constants.get(node.input[1])
    if (
        weight is None
        or len(weight.dims) != 4
        or "output_shape" in said
        or said.get("auto_pad", b"NOTSET") != b"NOTSET"
    ):
        return None
    plain = (
        said.get("group", 1) == 1 and set(said.get("dilations", [1])) == {1} and not any(said.get("output_padding", []))
    )
    values, steps = numpy_helper.to_array(weight), said.get("strides", [1, 1])
    step, size = steps[0], values.shape[2]
    if not plain or steps[1] != step or step < 2 or values.shape[3] != size:
        return None
    if len(node.input) > 2 and node.input[2] not in constants:
        return None
    taps = -(-size // step)
    extra = taps * step - size  # rows of zeros that the last phases add
    top, left, bottom, right = said.get("pads", [0] * 4)
    channels, outputs = values.shape[:2]
    whole = np.zeros((channels, outputs, taps * step, taps * step), np.float32)
    whole[:, :, :size, :size] = values
    cut = whole.reshape(channels, outputs, taps, step, taps, step)[:, :, ::-1, :, ::-1, :]
    kernel = cut.transpose(3, 5, 1, 0, 2, 4).reshape(-1, channels, taps, taps)
    name = f"{node.output[0]}_phases"
    tensors = [numpy_helper.from_array(np.ascontiguousarray(kernel), f"{name}_w")]
    if len(node.input) > 2:
        bias = np.tile(numpy_helper.to_array(constants[node.input[2]]), step * step)
        tensors.append(numpy_helper.from_array(bias, f"{name}_b"))
    inputs = [node.input[0], *(tensor.name for tensor in tensors)]
    new = helper.make_node("Conv", inputs, [name], kernel_shape=[taps, taps], pads=[taps - 1] * 4)
    return Phases(new, tensors, step, [top, left, bottom + extra, right + extra])
