"""Images as inputs: resized and cropped, in double precision and in one order of operations, so that C++ gives the same bits.

cmake/src/image.cpp computes the same; tests/cxx/test_processing.py holds both to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UserError

METHODS = ("bilinear", "nearest")
Floats = NDArray[np.float64]


def target_size(height: int, width: int, size: tuple[int, ...]) -> tuple[int, int]:
    """What an image becomes: `size` is (height, width), or (shorter side,) with the longer one in proportion, rounded down.

    >>> target_size(480, 640, (256,))
    (256, 341)
    """
    if len(size) == 2:
        return size[0], size[1]
    (short,) = size
    return (short, width * short // height) if height <= width else (height * short // width, short)


def resized(image: Floats, height: int, width: int, method: str, whole: bool) -> Floats:
    """[H, W, C] → [height, width, C], with half-pixel centres and without antialiasing: each output looks at 4 inputs, or 1.

    Output i lies at (i + ½) · H / height − ½ of the input, cut to the outermost centres: ONNX Resize, opset 19,
    coordinate_transformation_mode half_pixel, as PyTorch's align_corners=False. `whole`: of integers, bilinear results
    are rounded, halves to even. Shrinking by more than 2 skips input pixels: shrink with a decoder that averages first.
    """
    if method == "nearest":
        return image[nearest(len(image), height)][:, nearest(image.shape[1], width)]
    left, right, across = _taps(image.shape[1], width)
    top, bottom, down = _taps(len(image), height)
    across, down = across[:, None], down[:, None, None]
    mixed = image[:, left] * (1.0 - across) + image[:, right] * across
    found = mixed[top] * (1.0 - down) + mixed[bottom] * down
    return np.rint(found) if whole else found


def cropped(image: Floats, height: int, width: int) -> Floats:
    """The middle [height, width, C] of [H, W, C]; of an odd margin the smaller half is above and left. Raises UserError."""
    if height > len(image) or width > image.shape[1]:
        raise UserError(f"an image of {len(image)} × {image.shape[1]} has no middle of {height} × {width}")
    top, left = (len(image) - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def nearest(size: int, wanted: int) -> NDArray[np.int64]:
    """Which of `size` pixels holds the centre of each of `wanted`: floor((i + ½) · size / wanted)."""
    return (2 * np.arange(wanted) + 1) * size // (2 * wanted)


def _taps(size: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """For each of `wanted` outputs the two inputs that it lies between, and how far along: exact integers, one division."""
    at = np.clip((2 * np.arange(wanted) + 1) * size - wanted, 0, 2 * wanted * (size - 1))
    before, rest = np.divmod(at, 2 * wanted)
    return before, np.minimum(before + 1, size - 1), rest / (2.0 * wanted)
