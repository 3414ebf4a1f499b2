"""A preview of inputs that are images: a PNG of up to 64 of them in rows, written without any imaging package."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SIDE = 8
"""Rows and columns, at most."""
ROOM = 260
"""Pixels: what the grid takes in width, at most, so that the page stays small."""
GAP = 2


def grid(inputs: np.ndarray, preprocessing: Mapping[str, Any]) -> bytes | None:
    """PNG of the first inputs [n, channels, height, width], 1 or 3 channels; None for inputs that are no images.

    Pixels are what preprocessing began from, x · std + mean over scale · 255, cut to 0 … 1; where those constants are not
    given, values are stretched between the 1st and the 99th percentile of all.
    """
    if inputs.ndim != 4 or inputs.shape[1] not in (1, 3) or not len(inputs):
        return None
    tiles = _small(inputs[: SIDE * SIDE].astype(np.float64))
    if {"mean", "std"} <= set(preprocessing):
        mean, std = (np.asarray(preprocessing[n], np.float64).reshape(1, -1, 1, 1) for n in ("mean", "std"))
        tiles = (tiles * std + mean) / (255 * float(preprocessing.get("scale", 1 / 255)))
    else:
        low, high = np.percentile(tiles, (1, 99))
        tiles = (tiles - low) / max(high - low, 1e-12)
    pixels = np.rint(255 * np.clip(tiles, 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1)
    _, height, width, channels = pixels.shape
    columns = max(1, min(SIDE, ROOM // (width + GAP), len(pixels)))
    rows = min(-(-len(pixels) // columns), columns)
    page = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), 255, np.uint8)
    for index, tile in enumerate(pixels[: rows * columns]):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        page[top : top + height, left : left + width] = tile
    return png(page)


def _small(images: np.ndarray) -> np.ndarray:
    """Images averaged down by whole factors until six fit side by side."""
    factor = max(1, -(-max(images.shape[2:]) // (ROOM // 6 - GAP)))
    if factor == 1:
        return images
    n, channels, height, width = images.shape
    height, width = max(height // factor, 1), max(width // factor, 1)
    cut = images[:, :, : height * factor, : width * factor]
    return np.asarray(cut.reshape(n, channels, height, -1, width, cut.shape[3] // width).mean((3, 5)))


def png(pixels: np.ndarray) -> bytes:
    """Pixels [height, width, 1 or 3] uint8 as a PNG. Source: W3C, Portable Network Graphics, sections 5 and 11.2.

    >>> png(np.zeros((2, 3, 1), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
