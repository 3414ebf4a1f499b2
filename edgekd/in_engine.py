"""`preprocess = "in_engine"`: cast, layout, scale, mean and std become a program's first nodes; an app hands in bytes.

The engine that is scored, timed and bundled is then the one that does so. Resizing and cropping stay outside: an engine's
input has one size. Written in ONNX only, for the runtimes that start from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import UserError
from edgekd.json_file import read_json
from edgekd.processing import IMAGE, check, kind_of
from edgekd.settings import Settings
from edgekd.signature import Array, Signature

if TYPE_CHECKING:
    import onnx

FOLDED = ("scale", "mean", "std", "layout")
ONLY_ONNX = 'its preprocessing is in the engine, which is written in ONNX only: preprocess = "outside" for this backend'
CLOSE = 1e-3  # of a step between two bytes: how near the data must be to what preprocessing makes of bytes


def fold(program: Path, out: Path, preprocessing: Mapping[str, Any]) -> None:
    """Write into `out` the program with these constants in its graph: [1, height, width, channels], uint8, goes in.

    Raises UserError for a student that takes no float image.
    """
    import onnx

    from edgekd.backend import write_json

    about = read_json(program / "signature.json")
    factor, offset, channels_first = constants(Signature.read(program), preprocessing)
    (port,) = about["inputs"]
    model = onnx.load(program / "model.onnx")
    _prepend(model, port["name"], factor, offset, channels_first)
    shape = port["shape"]
    inside = {key: preprocessing[key] for key in FOLDED if key in preprocessing}
    outside = {key: value for key, value in preprocessing.items() if key not in FOLDED}
    taken = {**port, "dtype": "uint8", "shape": [shape[i] for i in (0, 2, 3, 1)] if channels_first else shape}
    onnx.save(model, out / "model.onnx")
    around = {"inputs": [taken], "preprocessing": {**outside, "layout": "NHWC"}, "in_engine": inside}
    write_json(out / "signature.json", {**about, **around})
    write_json(out / "graph.json", {"format": 1, "refused": [ONLY_ONNX], "nodes": []})
    shutil.copyfile(program / "program.json", out / "program.json")


def constants(signature: Signature, preprocessing: Mapping[str, Any]) -> tuple[Array, Array, bool]:
    """(factor [channels], offset [channels], whether channels come first): x = byte · factor + offset, of (byte · scale − mean) / std.

    Raises UserError where that is not what the preprocessing is.
    """
    check(preprocessing, {})
    settings = Settings(preprocessing, "preprocessing")
    settings.only(IMAGE if kind_of(preprocessing) == "image" else ())
    first = settings.choice("layout", ("NCHW", "NHWC")) == "NCHW"
    port = signature.inputs[0]
    if len(signature.inputs) != 1 or len(port.shape) != 4 or port.dtype != "float32":
        message = 'preprocess = "in_engine" is for students of one float32 image [batch, channels, height, width]'
        raise UserError(message, hint='preprocess = "outside"')
    channels = port.shape[1 if first else 3]
    scale = settings.number("scale", 1.0)
    mean, std = (np.array(settings.numbers(key, default)) for key, default in (("mean", 0.0), ("std", 1.0)))
    if {len(mean), len(std)} - {1, channels}:
        raise settings.wrong("mean", f"one number, or {channels}; so is std")
    whole = np.ones(int(channels))
    return whole * scale / std, -mean / std * whole, first


def bytes_of(inputs: Array, signature: Signature, preprocessing: Mapping[str, Any]) -> Array:
    """The images [n, height, width, channels], uint8, that the preprocessing makes `inputs` [n, …] of.

    Raises UserError for inputs that are not made of bytes so.
    """
    factor, offset, first = constants(signature, preprocessing)
    found = inputs.transpose(0, 2, 3, 1) if first else inputs
    exact = (found.astype(np.float64) - offset) / factor
    whole = np.clip(np.rint(exact), 0, 255)
    if (far := float(np.abs(exact - whole).max(initial=0.0))) > CLOSE:
        message = f'preprocess = "in_engine": the data are not bytes, scaled and normalised: {far:.3g} of a byte apart'
        raise UserError(message, hint='do scale, mean, std and layout say what the data factory does? or "outside"')
    return np.ascontiguousarray(whole, np.uint8)


def _prepend(model: onnx.ModelProto, name: str, factor: Array, offset: Array, channels_first: bool) -> None:
    """Cast, transpose, multiply and add before the input `name`, in place."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    (value,) = [value for value in graph.input if value.name == name]
    shape = (1, -1, 1, 1) if channels_first else (1, 1, 1, -1)
    held = {"factor": factor.astype(np.float32), "offset": offset.astype(np.float32)}
    graph.initializer.extend(
        numpy_helper.from_array(array.reshape(shape), f"{name}/{key}") for key, array in held.items()
    )
    parts = [f"{name}/{part}" for part in ("float", "turned", "scaled", "prepared")]
    made = [helper.make_node("Cast", [name], [parts[0]], to=TensorProto.FLOAT)]
    if channels_first:
        made.append(helper.make_node("Transpose", [parts[0]], [parts[1]], perm=[0, 3, 1, 2]))
    made.append(helper.make_node("Mul", [made[-1].output[0], f"{name}/factor"], [parts[2]]))
    made.append(helper.make_node("Add", [parts[2], f"{name}/offset"], [parts[3]]))
    for node in graph.node:
        node.input[:] = [parts[3] if one == name else one for one in node.input]
    after = list(graph.node)
    del graph.node[:]
    graph.node.extend([*made, *after])
    value.type.tensor_type.elem_type = TensorProto.UINT8
    if channels_first:
        dims = [type(dim).FromString(dim.SerializeToString()) for dim in value.type.tensor_type.shape.dim]
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.dim.extend(dims[i] for i in (0, 2, 3, 1))
