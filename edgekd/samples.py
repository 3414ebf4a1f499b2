"""What an ONNX file is calibrated and judged on: arrays for each of its inputs, in three splits, and labels if there are any.

    noise     no data: standard normal floats, random token ids
    images    a folder of images
    npz       a file with an array for each input, and `labels` for an accuracy

Samples lie along an array's first dimension. It is the batch where every input and output of the file has one; else
(a recurrent state, a scalar) each sample is one whole input, so an array has one dimension more than the input. No torch
but for images.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.backend import Array, Port, Signature, write_json
from edgekd.errors import UserError, nearest

if TYPE_CHECKING:
    from edgekd.progress import Progress

SPLITS = ("train", "validation", "test")
KINDS = ("noise", "images", "npz")
COUNT = 256
FEWEST = 8
LABELS = "labels"
GUESS = "random noise, a guess at what inputs look like: calibrate on real ones before you trust the figures"


@dataclass(frozen=True)
class Samples:
    """`inputs`: of each input, in the signature's order, [n, ...]; `labels` [n]; `notes`: what to know of them."""

    inputs: Sequence[Array]
    labels: Array | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs[0])


def batched(signature: Signature) -> bool:
    """Whether the first dimension of every input and output is a batch of one (or free)."""
    ports = (*signature.inputs, *signature.outputs)
    return all(port.shape and (port.shape[0] == 1 or isinstance(port.shape[0], str)) for port in ports)


def noise(signature: Signature, limits: Mapping[str, int], count: int, seed: int, where: str) -> Samples:
    """Standard normal floats; bytes 0 … 255; token ids below `limits` where the file says how many there are, else 0 or 1.

    Raises UserError for an input whose size, besides the batch, is free.
    """
    random, whole = np.random.default_rng(seed), not batched(signature)
    found: list[Array] = []
    for port in signature.inputs:
        shape = port.shape if whole else port.shape[1:]
        free = [size for size in shape if isinstance(size, str)]
        if free:
            message = f'{where}: input "{port.name}" is {list(port.shape)}: its size {", ".join(free)} is free'
            raise UserError(message, hint="--calibration FILE.npz with real inputs: their shapes say the size")
        found.append(_drawn(random, (count, *shape), np.dtype(port.dtype), limits.get(port.name)))
    return Samples(found, notes=(GUESS,))


def _drawn(random: np.random.Generator, shape: Sequence[Any], dtype: np.dtype[Any], limit: int | None) -> Array:
    if np.issubdtype(dtype, np.floating):
        return np.asarray(random.standard_normal(shape), dtype)
    if limit is None:
        limit = 256 if dtype == np.uint8 else 2
    return np.asarray(random.integers(0, limit, shape), dtype)


def npz(file: Path, signature: Signature, count: int, seed: int) -> Samples:
    """The arrays of an .npz file, named like the inputs (a single one may have any name); at most `count`, drawn by the seed.

    Raises UserError naming the array that is missing, of another shape or type, or not finite.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            if isinstance(stored, np.ndarray):
                raise UserError(f"{file} holds one bare array", hint="save it with numpy.savez")
            held = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is not a whole .npz file: {error}", hint="write it with numpy.savez") from None
    labels = held.pop(LABELS, None)
    names = [port.name for port in signature.inputs]
    if len(names) == 1 and len(held) == 1:
        held = {names[0]: next(iter(held.values()))}
    for name in names:
        if name not in held:
            raise UserError(f'{file} has no array "{name}", which the file takes', hint=nearest(name, held))
    found = [_fitting(file, port, held[port.name], batched(signature)) for port in signature.inputs]
    sizes = {len(array) for array in (*found, *([] if labels is None else [labels]))}
    if len(sizes) != 1 or not min(sizes):
        raise UserError(f"{file}: its arrays hold different numbers of samples, or none: {sorted(sizes)}")
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        message = f'{file}: "{LABELS}" is {labels.dtype} {list(labels.shape)}'
        raise UserError(message, hint="one whole number for each sample, counting classes from 0")
    chosen = np.sort(np.random.default_rng(seed).permutation(min(sizes))[:count])
    return Samples([array[chosen] for array in found], None if labels is None else labels[chosen])


def _fitting(file: Path, port: Port, array: Array, batches: bool) -> Array:
    """The array in the input's type. Raises UserError if it is not a number of inputs."""
    shape = port.shape[1:] if batches else port.shape
    fits = array.ndim == len(shape) + 1 and all(
        n == size for n, size in zip(array.shape[1:], shape, strict=True) if isinstance(size, int)
    )
    if not fits:
        expected = ", ".join(["n", *map(str, shape)])
        raise UserError(f'{file}: "{port.name}" is {list(array.shape)}', hint=f"the file takes [{expected}]")
    kind, wanted = array.dtype.kind, np.dtype(port.dtype).kind
    if kind not in "biuf" or (kind == "f") != (wanted == "f"):
        raise UserError(f'{file}: "{port.name}" holds {array.dtype}', hint=f"the file takes {port.dtype}")
    if kind == "f" and not np.isfinite(array).all():
        first = int(np.argwhere(~np.isfinite(array))[0][0])
        raise UserError(f'{file}: sample {first} of "{port.name}" has NaN or infinite values', hint="mend or remove it")
    if kind == "f" and array.size and array.min() == array.max():
        message = f'{file}: every value of "{port.name}" is {array.flat[0]:g}: no range can be drawn from that'
        raise UserError(message, hint="calibrate on inputs like those that the file will meet")
    return np.asarray(array, port.dtype)


def images(
    folder: Path, signature: Signature, count: int, seed: int, given: Mapping[str, Any], progress: Progress
) -> Samples:
    """The images of a folder for a file with one image input, [1, channels, height, width] or channels last.

    `given`: {"scale", "mean", "std"} as far as they are known: x = (pixel · scale − mean) / std; a float input whose file
    is not told them gets pixel / 255, and a note that says so. Raises UserError for inputs that are no image.
    """
    from edgekd.source import Given
    from edgekd.sources.images import Images
    from edgekd.student import Student
    from edgekd.target import Calibration

    if len(signature.inputs) != 1:
        raise UserError(f"{folder}: a folder of images feeds one input, the file has {len(signature.inputs)}", hint=NPZ)
    (port,) = signature.inputs
    last = len(port.shape) == 4 and port.shape[1] not in (1, 3) and port.shape[3] in (1, 3)
    shape = [port.shape[i] for i in (0, 3, 1, 2)] if last else list(port.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or not all(isinstance(n, int) for n in shape[1:]):
        raise UserError(f'{folder}: input "{port.name}" is {list(port.shape)}, which is no image', hint=NPZ)
    floating = np.issubdtype(np.dtype(port.dtype), np.floating)
    known = {"scale": 1 / 255 if floating else 1.0, "mean": [0.0], "std": [1.0], **given}
    recipe = Calibration(name=folder.name, source="images", count=count, seed=seed, path=str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        about = {"inputs": [{"name": port.name, "shape": shape, "dtype": "float32"}], "outputs": []}
        write_json(Path(scratch) / "signature.json", {**about, "preprocessing": known})
        student = Student(Path(scratch), _no_network)
        asked = Given(data=_no_network, teacher=None, progress=progress, work=Path(scratch))
        found = Images().inputs(student, recipe, asked).numpy()
    found = found.transpose(0, 2, 3, 1) if last else found
    if not floating:
        found = np.rint(found)
    guessed = floating and not given
    note = "pixels as value / 255: a guess, data.scale, data.mean and data.std say otherwise"
    return Samples([np.ascontiguousarray(found, port.dtype)], notes=(note,) if guessed else ())


NPZ = "--calibration FILE.npz with an array for each input"


def _no_network() -> Any:
    raise UserError("an ONNX file has no network for torch")


def split(samples: Samples, seed: int) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """(half to calibrate on, a quarter for the choice, a quarter for the figures; what to know of that)."""
    count = len(samples)
    if count < FEWEST:
        said = f"{count} sample{'' if count == 1 else 's'} only: calibration and figures are of the same ones"
        return dict.fromkeys(SPLITS, samples), (said,)
    order = np.random.default_rng(seed).permutation(count)
    ends = (count // 2, count // 2 + count // 4)
    return {name: _taken(samples, rows) for name, rows in zip(SPLITS, np.split(order, ends), strict=True)}, ()


def _taken(samples: Samples, rows: Array) -> Samples:
    labels = None if samples.labels is None else samples.labels[rows]
    return Samples([array[rows] for array in samples.inputs], labels)
