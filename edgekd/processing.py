"""What stands before and behind an engine: a picture or a sound to its input, its output to named classes. No torch.

`preprocessing` of a signature, each key as far as it is wanted, applied in this order:

    image  [height, width, channels] or [height, width], uint8 or float32
           resize {size, method}   size: [height, width], or one number for the shorter side; "bilinear" or "nearest";
                  from             what size images come in, for preprocess = "in_engine" only (edgekd/in_engine.py)
           crop {size}             the middle
           scale, mean, std        (pixel · scale − mean) / std; one number, or one a channel
           layout                  "NCHW" (the default) or "NHWC"
    sound  [samples], int16 or float32
           scale                   sample · scale
           framing {length, hop, window}
           mel {rate, bins, fft, low, high}
           log                     log(x + this)
           mean, std               one number, or one a column of a frame
           layout                  "NTF" (time first, the default) or "NFT"
    text   tokenizer {kind, files, …}   edgekd/tokenizer.py; `Session.tokenize` applies it

then rounded and cut, for an integer input, to its dtype. `postprocessing`: softmax or sigmoid (true), threshold, top.
Further keys are the app's own: they travel too, and `preprocess` then refuses, for it cannot know what they mean.

All is computed in double precision in an order that is fixed, so that cmake/src/processing.cpp gives the same: to the bit
in integers, within one unit in the last place in floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd import audio, image, tokenizer
from edgekd.errors import UserError
from edgekd.settings import Settings
from edgekd.signature import Array, Port, Signature

if TYPE_CHECKING:
    from edgekd.sections import Recipe

IMAGE = ("resize", "crop", "scale", "mean", "std", "layout")
SOUND = ("scale", "framing", "mel", "log", "mean", "std", "layout")
TEXT = ("tokenizer",)
BEHIND = ("softmax", "sigmoid", "threshold", "top")
LAYOUTS = {"image": ("NCHW", "NHWC"), "sound": ("NTF", "NFT")}
MOST = 2**25  # values of a picture or of frames on their way, and of a mel table
RAW = {"image": ("uint8", "float32"), "sound": ("int16", "float32")}


@dataclass(frozen=True)
class Class:
    """One answer: the class's index, its name (its index, where classes have none) and its score, a float32's value."""

    index: int
    label: str
    score: float


def kind_of(preprocessing: Mapping[str, Any]) -> str:
    """What the keys are of: "text", "sound" or "image"."""
    return "text" if "tokenizer" in preprocessing else "sound" if "framing" in preprocessing else "image"


def check(preprocessing: Mapping[str, Any], postprocessing: Mapping[str, Any]) -> None:
    """Raises UserError naming the first known key whose value is not what it should be. Unknown keys are the app's own."""
    kind = kind_of(preprocessing)
    known = {"text": TEXT, "sound": SOUND, "image": IMAGE}[kind]
    settings = Settings({k: v for k, v in preprocessing.items() if k in known}, "preprocessing")
    if kind == "text":
        tokenizer.settings_of(preprocessing)
    else:
        settings.choice("layout", LAYOUTS[kind])
        _affine(settings)
        settings.number("log", 0.0)
        (_geometry if kind == "image" else _spectral)(settings)
    behind = Settings(postprocessing, "postprocessing")
    behind.only(BEHIND)
    _behind(behind)


def processing_of(recipe: Recipe, signature: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Both tables of a bundle: those of the signature, the recipe's keys in place of theirs. Raises UserError as `check`.

    What is in the engine (edgekd/in_engine.py) stays there.
    """
    inside = signature.get("in_engine") or ()
    before = {key: value for key, value in recipe.preprocessing.items() if key not in inside}
    own = {"preprocessing": before, "postprocessing": recipe.postprocessing}
    found = {name: {**(signature.get(name) or {}), **keys} for name, keys in own.items()}
    check(found["preprocessing"], found["postprocessing"])
    return found


def _affine(settings: Settings) -> tuple[float, list[float], list[float]]:
    scale, mean, std = settings.number("scale", 1.0), settings.numbers("mean", 0.0), settings.numbers("std", 1.0)
    if 0.0 in std:
        raise settings.wrong("std", "free of zeros")
    return scale, mean, std


def _geometry(settings: Settings) -> tuple[tuple[tuple[int, ...], str] | None, tuple[int, ...] | None]:
    resize, crop = settings.within("resize", ("size", "method", "from")), settings.within("crop", ("size",))
    if resize is not None and "from" in resize.found:
        resize.size("from", square=True)
    to = (resize.size(square=False), resize.choice("method", image.METHODS)) if resize is not None else None
    return to, crop.size(square=True) if crop is not None else None


def _spectral(settings: Settings) -> tuple[tuple[int, int, str], tuple[int, int, float, float, float] | None]:
    """(length, hop, window) and, where there is a mel table, (bins, fft, rate, low, high)."""
    framing, mel = (
        settings.within("framing", ("length", "hop", "window")),
        settings.within("mel", ("rate", "bins", "fft", "low", "high")),
    )
    assert framing is not None
    length = framing.whole("length")
    framed = (length, framing.whole("hop"), framing.choice("window", audio.WINDOWS))
    if mel is None:
        return framed, None
    rate, size = mel.number("rate", 0.0), mel.whole("fft", 1 << (length - 1).bit_length())
    low, high = mel.number("low", 0.0), mel.number("high", rate / 2.0)
    if size & (size - 1) or size < length or size > 2**20:
        raise mel.wrong("fft", f"a power of two, at least a frame's {length}")
    if not 0.0 <= low < high <= rate / 2.0:
        raise mel.wrong("high", "above low, and at most half the rate")
    return framed, (mel.whole("bins"), size, rate, low, high)


def _behind(settings: Settings) -> tuple[str, float, int | None]:
    """(what is done to the outputs, the least score kept, how many at most)."""
    how = [name for name in ("softmax", "sigmoid") if settings.flag(name)]
    if len(how) > 1:
        raise settings.wrong("sigmoid", "for one that has softmax")
    least = settings.number("threshold", 0.0) if "threshold" in settings.found else -math.inf
    return (how or [""])[0], least, settings.whole("top") if "top" in settings.found else None


def preprocess(signature: Signature, raw: Array) -> Array:
    """The student's input, of the signature's shape and dtype, for an image or a sound as it comes.

    Raises UserError for a student of several inputs or of text, a setting that edgekd does not apply, and raw data that
    do not become the input's shape.
    """
    kind = kind_of(signature.preprocessing)
    if kind == "text":
        raise UserError("the student takes text", hint="student.tokenize(text), or student.run_text(text)")
    if len(signature.inputs) != 1:
        raise UserError(f"preprocessing makes one input, the student has {len(signature.inputs)}")
    (port,) = signature.inputs
    settings = Settings(signature.preprocessing, "preprocessing")
    settings.only(IMAGE if kind == "image" else SOUND)
    if raw.dtype.name not in RAW[kind] or raw.ndim not in ((2, 3) if kind == "image" else (1,)) or not raw.size:
        wanted = "[height, width] or [height, width, channels]" if kind == "image" else "[samples]"
        raise UserError(f"the {kind} is {raw.dtype} {list(raw.shape)}, not {' or '.join(RAW[kind])} {wanted}")
    found = _image(settings, raw) if kind == "image" else _sound(settings, raw)
    shape = port.concrete(1)
    fits = found.size == math.prod(shape) and (kind == "sound" or found.shape == shape[1:])
    if not fits:
        message = f'the {kind} became {list(found.shape)}, the student\'s "{port.name}" is {list(port.shape)}'
        raise UserError(message, hint="resize and crop, or framing, say what it becomes")
    return _stored(found, port).reshape(shape)


def _image(settings: Settings, raw: Array) -> Array:
    to, middle = _geometry(settings)
    scale, mean, std = _affine(settings)
    pixels = raw.reshape(*raw.shape[:2], -1).astype(np.float64)
    if to is not None:
        height, width = image.target_size(len(pixels), pixels.shape[1], to[0])
        if height * width * pixels.shape[2] > MOST:
            raise UserError(f"preprocessing.resize.size makes an image of {height} × {width}, which is too large")
        pixels = image.resized(pixels, max(height, 1), max(width, 1), to[1], raw.dtype == np.uint8)
    if middle is not None:
        pixels = image.cropped(pixels, middle[0], middle[1])
    pixels = _normalised(settings, pixels, scale, mean, std)
    return pixels.transpose(2, 0, 1) if settings.choice("layout", LAYOUTS["image"]) == "NCHW" else pixels


def _sound(settings: Settings, raw: Array) -> Array:
    (length, hop, window), mel = _spectral(settings)
    scale, mean, std = _affine(settings)
    if max((len(raw) - length) // hop + 1, 0) * length > MOST or (mel and (mel[1] // 2 + 1) * mel[0] > MOST):
        raise UserError("preprocessing.framing, or its mel table, is too large", hint=f"at most {MOST} numbers")
    found = audio.frames(raw.astype(np.float64) * scale, length, hop, window)
    if mel is not None:
        bins, size, rate, low, high = mel
        found = audio.mel(found, size, audio.filters(bins, size, rate, low, high))
    if "log" in settings.found:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.log(found + settings.number("log", 0.0))
    found = _normalised(settings, found, 1.0, mean, std)
    return found.T if settings.choice("layout", LAYOUTS["sound"]) == "NFT" else found


def _normalised(settings: Settings, x: Array, scale: float, mean: list[float], std: list[float]) -> Array:
    """(x · scale − mean) / std along the last dimension."""
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, x.shape[-1]):
            raise settings.wrong(key, f"one number, or {x.shape[-1]}")
    found: Array = (x * scale - np.array(mean)) / np.array(std)
    return found


def _stored(x: Array, port: Port) -> Array:
    """As the input's dtype: floats rounded once; integers rounded, halves to even, and cut to the range; NaN is 0 there."""
    dtype = np.dtype(port.dtype)
    if dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(x, dtype)
    if dtype not in (np.uint8, np.int8):
        raise UserError(f'edgekd prepares no {port.dtype}, which the student\'s "{port.name}" is')
    limits = np.iinfo(dtype)
    return np.ascontiguousarray(np.clip(np.nan_to_num(np.rint(x), nan=0.0), limits.min, limits.max), dtype)


def postprocess(signature: Signature, output: Array) -> list[Class]:
    """The classes of one output [classes] or [1, classes], the largest first, as `postprocessing` says; ties by index.

    Raises UserError for NaN, and for an output of another size than there are labels.
    """
    settings = Settings(signature.postprocessing, "postprocessing")
    settings.only(BEHIND)
    how, least, top = _behind(settings)
    raw = np.asarray(output, np.float64).ravel()
    labels = signature.labels
    if not raw.size or np.isnan(raw).any() or (labels and len(labels) != raw.size):
        what = "holds NaN" if np.isnan(raw).any() else f"has {raw.size} values for {len(labels)} labels"
        raise UserError(f"the output {what}", hint="one sample at a time, the first output of the student")
    with np.errstate(over="ignore", invalid="ignore"):
        scores = raw
        if how == "softmax":
            grown = np.exp(raw - raw.max())
            scores = grown / np.add.accumulate(grown)[-1]
        elif how == "sigmoid":
            scores = 1.0 / (1.0 + np.exp(-raw))
        rounded = scores.astype(np.float32)
    order = np.argsort(-raw, kind="stable")
    kept = [int(i) for i in order if float(rounded[i]) >= least][:top]
    return [Class(i, labels[i] if labels else str(i), float(rounded[i])) for i in kept]
