"""Checkpoints: tensors and plain values in one file, without pickle, so that all of it is from one moment.

The file is 32 bytes of sha256, then a safetensors file whose metadata holds the values as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from edgekd.store import write_whole


def encode(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> bytes:
    """The same tensors and values give the same bytes. Tensors that share memory are written each for itself."""
    copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    payload = save(copies, {"facts": json.dumps(facts, sort_keys=True)})
    return hashlib.sha256(payload).digest() + payload


def write(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint whole: a kill at any moment leaves the one before, or this one."""
    write_whole(path, encode(tensors, facts))


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The tensors and the values; None for a file that is missing, cut short or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:32], content[32:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    return load(payload), json.loads(header["__metadata__"]["facts"])
