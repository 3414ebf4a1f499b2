"""Transposed convolutions as convolutions to a pixel of each phase, and a shuffle of those.

They then have the convolutions' kernels, in float and in integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd.rewrites.flat import ELEMENTWISE

__all__ = ["subpixel"]


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
    nodes = list(graph.node)
    behind = {node.input[0]: node for node in nodes if node.op_type in ELEMENTWISE and len(node.input) == 1}
    moved: set[str] = set()
    made: list[onnx.NodeProto] = []
    for node in nodes:
        if node.output[0] in moved:
            continue
        new = _phases(node, constants) if node.op_type == "ConvTranspose" and not node.domain else None
        if new is None:
            made.append(node)
            continue
        convolution, tensors, step = new
        graph.initializer.extend(tensors)
        made.append(convolution)
        last, result = convolution.output[0], node.output[0]
        curve = behind.get(result)
        if curve is not None and readers[result] == 1:  # values stay what they are when they are shuffled
            moved.add(curve.output[0])
            made.append(onnx.NodeProto())
            made[-1].CopyFrom(curve)
            made[-1].input[0], made[-1].output[0] = last, f"{last}_behind"
            last, result = made[-1].output[0], curve.output[0]
        made.append(helper.make_node("DepthToSpace", [last], [result], blocksize=step, mode="DCR"))
    if len(made) == len(nodes) and all(a is b for a, b in zip(made, nodes, strict=True)):
        return None
    del graph.node[:], graph.value_info[:]
    graph.node.extend(made)
    return copied


def _phases(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, list[onnx.TensorProto], int] | None:
    """The convolution that makes every phase of the output, its constants and the stride; None if it has no such form.

    y[s q + r] = Σ_d x[q − d] w[s d + r + p]: the taps d of phase r, with the last first, are its kernel; where s d + r + p is no
    tap of w, they are zero.
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
    values, pads, steps = numpy_helper.to_array(weight), said.get("pads", [0] * 4), said.get("strides", [1, 1])
    step, size = steps[0], values.shape[2]
    square = len({*pads}) == 1 and steps[1] == step > 1 and values.shape[3] == size
    if not (plain and square) or size - 2 * pads[0] != step or (len(node.input) > 2 and node.input[2] not in constants):
        return None  # the output is then stride times the input
    pad = pads[0]
    first, last = -((step - 1 + pad) // step), (size - 1 - pad) // step
    channels, outputs = values.shape[:2]
    taps = last - first + 1
    kernel = np.zeros((step, step, outputs, channels, taps, taps), np.float32)
    at = [(r, t, k) for r in range(step) for t in range(taps) if 0 <= (k := step * (last - t) + r + pad) < size]
    for r, t, k in at:
        for q, u, m in at:
            kernel[r, q, :, :, t, u] = values[:, :, k, m].T
    name = f"{node.output[0]}_phases"
    tensors = [numpy_helper.from_array(kernel.reshape(-1, channels, taps, taps), f"{name}_w")]
    inputs = [node.input[0], tensors[0].name]
    if len(node.input) > 2:
        bias = np.tile(numpy_helper.to_array(constants[node.input[2]]), step * step)
        tensors.append(numpy_helper.from_array(bias, f"{name}_b"))
        inputs.append(tensors[1].name)
    around = [last, last, -first, -first]
    new = helper.make_node("Conv", inputs, [name], kernel_shape=[taps, taps], pads=around)
    return new, tensors, step
