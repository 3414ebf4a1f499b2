"""`preprocess = "in_engine"`: what stands before an engine becomes a program's first nodes; an app hands in bytes.

The engine that is scored, timed and bundled is then the one that does so. Cast, layout, scale, mean and std always go in. Resize
and crop do where the recipe says of what size images come, `resize = {size, from = [height, width]}`: an engine's input has one
size. Nearest picks the pixels that Python picks; bilinear is the runtime's own Resize, rounded: where a value lies halfway
between two bytes it may become the other one, elsewhere it is what Python computes. Written in ONNX only.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import image
from edgekd.errors import UserError
from edgekd.json_file import read_json
from edgekd.processing import IMAGE, check, kind_of
from edgekd.settings import Settings
from edgekd.signature import Array, Signature

if TYPE_CHECKING:
    import onnx

FOLDED = ("scale", "mean", "std", "layout")
ONLY_ONNX = 'its preprocessing is in the engine, which is written in ONNX only: preprocess = "outside" for this backend'
OUTSIDE = 'preprocess = "outside"'
CLOSE = 1e-3  # of a step between two bytes: how near the data must be to what preprocessing makes of bytes
MOST_BYTES = 4e9  # of a split, as images of the size that they come in


@dataclass(frozen=True)
class Resizing:
    """Images of `before` become `between`, of which the middle `after` is kept: (height, width) each."""

    before: tuple[int, int]
    between: tuple[int, int]
    after: tuple[int, int]
    method: str

    @property
    def corner(self) -> tuple[int, int]:
        """Where the middle begins."""
        return (self.between[0] - self.after[0]) // 2, (self.between[1] - self.after[1]) // 2


def resizing(signature: Signature, preprocessing: Mapping[str, Any]) -> Resizing | None:
    """What goes into the engine of resize and crop; None where they stay outside. Raises UserError for what cannot go in."""
    resize = Settings(preprocessing, "preprocessing").within("resize", ("size", "method", "from"))
    if resize is None or "from" not in resize.found:
        return None
    _, _, first = constants(signature, preprocessing)
    port = signature.inputs[0]
    after = tuple(port.shape[i] for i in ((2, 3) if first else (1, 2)))
    height, width = resize.size("from", square=True)
    between = image.target_size(height, width, resize.size(square=False))
    crop = Settings(preprocessing, "preprocessing").within("crop", ("size",))
    middle = between
    if crop is not None:
        high, wide = crop.size(square=True)
        middle = (high, wide)
    if middle != after or middle[0] > between[0] or middle[1] > between[1]:
        raise resize.wrong("from", f"a size of which {list(between)} and its middle {list(middle)} make {list(after)}")
    if not isinstance(port.shape[0], int):
        raise UserError(
            f'"{port.name}" is {list(port.shape)}: resize goes into an engine of a fixed batch', hint=OUTSIDE
        )
    method = resize.choice("method", image.METHODS)
    for size, wanted in zip((height, width), between, strict=True):
        if size != wanted and size < (1 if method == "nearest" else 2) * wanted:
            message = f"{size} pixels to {wanted}: the data are the student's inputs, and of none is an image known that becomes it"
            raise UserError(message, hint=f"in the engine images shrink by 2 or more, or not at all; or {OUTSIDE}")
    return Resizing((height, width), between, middle, method)


def fold(program: Path, out: Path, preprocessing: Mapping[str, Any]) -> None:
    """Write into `out` the program with these constants in its graph: [1, height, width, channels], uint8, goes in.

    Raises UserError for a student that takes no float image.
    """
    import onnx

    from edgekd.backend import write_json

    about, signature = read_json(program / "signature.json"), Signature.read(program)
    factor, offset, channels_first = constants(signature, preprocessing)
    resized = resizing(signature, preprocessing)
    (port,) = about["inputs"]
    model = onnx.load(program / "model.onnx")
    shape = [port["shape"][i] for i in ((0, 2, 3, 1) if channels_first else range(4))]
    if resized:
        shape[1:3] = resized.before
    _prepend(model, port["name"], factor, offset, channels_first, resized)
    _retype(model, port["name"], channels_first, resized)
    onnx.save(model, out / "model.onnx")
    within = (*FOLDED, "resize", "crop") if resized else FOLDED
    inside = {key: preprocessing[key] for key in within if key in preprocessing}
    outside = {key: value for key, value in preprocessing.items() if key not in within}
    taken = {**port, "dtype": "uint8", "shape": shape}
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

    Of an image that is resized in the engine each pixel of the input is repeated where it was shrunk from. Raises UserError
    for inputs that are not made of bytes so.
    """
    factor, offset, first = constants(signature, preprocessing)
    found = inputs.transpose(0, 2, 3, 1) if first else inputs
    exact = (found.astype(np.float64) - offset) / factor
    whole = np.clip(np.rint(exact), 0, 255)
    if (far := float(np.abs(exact - whole).max(initial=0.0))) > CLOSE:
        message = f'preprocess = "in_engine": the data are not bytes, scaled and normalised: {far:.3g} of a byte apart'
        raise UserError(message, hint='do scale, mean, std and layout say what the data factory does? or "outside"')
    pixels = np.ascontiguousarray(whole, np.uint8)
    resized = resizing(signature, preprocessing)
    if resized is None:
        return pixels
    count, channels = len(pixels), pixels.shape[3]
    if (held := float(count) * resized.before[0] * resized.before[1] * channels) > MOST_BYTES:
        message = f"{count} images of {resized.before[0]} × {resized.before[1]} are {held / 1e9:.1f} GB"
        raise UserError(f'preprocess = "in_engine": {message}', hint=f"fewer samples, or {OUTSIDE}")
    rows, columns = (
        np.clip(image.nearest(between, before) - corner, 0, after - 1)
        for before, between, after, corner in zip(
            resized.before, resized.between, resized.after, resized.corner, strict=True
        )
    )
    return np.ascontiguousarray(pixels[:, rows][:, :, columns])


def _prepend(
    model: onnx.ModelProto, name: str, factor: Array, offset: Array, channels_first: bool, resized: Resizing | None
) -> None:
    """Cast, transpose, resize, crop, multiply and add before the input `name`, in place."""
    from onnx import TensorProto, helper, numpy_helper

    made: list[onnx.NodeProto] = []

    def held(label: str, value: Array) -> str:
        model.graph.initializer.append(numpy_helper.from_array(value, f"{name}/{label}"))
        return f"{name}/{label}"

    def then(operator: str, label: str, *more: str, **attributes: Any) -> None:
        last = made[-1].output[0] if made else name
        made.append(helper.make_node(operator, [last, *more], [f"{name}/{label}"], **attributes))

    then("Cast", "float", to=TensorProto.FLOAT)
    if channels_first or resized:
        then("Transpose", "turned", perm=[0, 3, 1, 2])
    if resized and resized.before != resized.between:
        if resized.method == "nearest":
            for axis, (before, between) in enumerate(zip(resized.before, resized.between, strict=True), 2):
                then("Gather", f"picked{axis}", held(f"pixels{axis}", image.nearest(before, between)), axis=axis)
        else:
            dims = model.graph.input[[one.name for one in model.graph.input].index(name)].type.tensor_type.shape.dim
            sizes = [dims[0].dim_value, dims[1 if channels_first else 3].dim_value, *resized.between]
            asked = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
            then("Resize", "resized", "", "", held("sizes", np.array(sizes, np.int64)), **asked)
            then("Round", "rounded")
    if resized and resized.between != resized.after:
        corner = np.array(resized.corner, np.int64)
        ends, axes = corner + np.array(resized.after, np.int64), np.array([2, 3], np.int64)
        then("Slice", "cropped", held("corner", corner), held("ends", ends), held("axes", axes))
    if resized and not channels_first:
        then("Transpose", "back", perm=[0, 2, 3, 1])
    shape = (1, -1, 1, 1) if channels_first else (1, 1, 1, -1)
    then("Mul", "scaled", held("factor", factor.astype(np.float32).reshape(shape)))
    then("Add", "prepared", held("offset", offset.astype(np.float32).reshape(shape)))
    for node in model.graph.node:
        node.input[:] = [made[-1].output[0] if one == name else one for one in node.input]
    after = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*made, *after])


def _retype(model: onnx.ModelProto, name: str, channels_first: bool, resized: Resizing | None) -> None:
    """The input `name` takes bytes, channels last, of the size that images come in."""
    from onnx import TensorProto

    (value,) = [value for value in model.graph.input if value.name == name]
    kind = value.type.tensor_type
    kind.elem_type = TensorProto.UINT8
    dims = [type(dim).FromString(dim.SerializeToString()) for dim in kind.shape.dim]
    del kind.shape.dim[:]
    kind.shape.dim.extend([dims[i] for i in ((0, 2, 3, 1) if channels_first else range(4))])
    for dim, size in zip(kind.shape.dim[1:3], resized.before if resized else (), strict=False):
        dim.dim_value = size
