"""The signature of a student: what goes in, what comes out, how raw data become inputs and outputs become answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import UserError
from edgekd.json_file import read_json

__all__ = ["Array", "Port", "Signature", "check_inputs"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One input or output: `shape` holds an int per fixed dimension and a name per dynamic one."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def concrete(self, dynamic: int) -> tuple[int, ...]:
        """The shape with every dynamic dimension set to `dynamic`."""
        return tuple(size if isinstance(size, int) else dynamic for size in self.shape)


@dataclass(frozen=True)
class Signature:
    """`signature.json`: what goes in, what comes out, what the classes are called, and what stands before and behind.

    `preprocessing` and `postprocessing` are what edgekd/processing.py applies.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    postprocessing: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Signature:
        """Raises UserError if `folder/signature.json` is missing or not a signature."""
        file = folder / "signature.json"
        found = read_json(file)
        try:
            inputs, outputs = (tuple(_port(port) for port in found[side]) for side in ("inputs", "outputs"))
            labels = tuple(str(label) for label in found.get("labels") or ())
            before, behind = (dict(found.get(key) or {}) for key in ("preprocessing", "postprocessing"))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file}: not a signature: {type(error).__name__}: {error}") from None
        return cls(inputs, outputs, before, labels, behind)

    def noise(self, seed: int) -> list[Array]:
        """One batch of legal inputs: standard normal floats; 0 or 1 for integers and bool. A dynamic dimension is 1."""
        random = np.random.default_rng(seed)
        made: list[Array] = []
        for port in self.inputs:
            floating = np.issubdtype(np.dtype(port.dtype), np.floating)
            shape = port.concrete(1)
            values = random.standard_normal(shape) if floating else random.integers(0, 2, shape)
            made.append(np.asarray(values).astype(port.dtype))
        return made

    def feed(self, seed: int) -> dict[str, Array]:
        """The same noise by name of the input."""
        return {port.name: value for port, value in zip(self.inputs, self.noise(seed), strict=True)}


def _port(found: Mapping[str, Any]) -> Port:
    shape = tuple(n if isinstance(n, int) and n > 0 else str(n) for n in found["shape"])
    return Port(str(found["name"]), shape, np.dtype(found["dtype"]).name)


def check_inputs(ports: Sequence[Port], inputs: Sequence[Array]) -> None:
    """Raises UserError naming the first input whose count, type, shape or dtype is not the signature's."""
    if len(inputs) != len(ports):
        names = ", ".join(port.name for port in ports)
        raise UserError(f"the engine takes {len(ports)} input(s) ({names}), got {len(inputs)}")
    for port, value in zip(ports, inputs, strict=True):
        if not isinstance(value, np.ndarray):
            raise UserError(f'input "{port.name}" is a {type(value).__name__}, not a numpy array')
        if value.dtype != port.dtype:
            raise UserError(
                f'input "{port.name}" has dtype {value.dtype}, the engine takes {port.dtype}',
                hint=f'convert it: x.astype("{port.dtype}")',
            )
        fits = value.ndim == len(port.shape) and all(
            n == size for n, size in zip(value.shape, port.shape, strict=True) if isinstance(size, int)
        )
        if not fits:
            raise UserError(f'input "{port.name}" has shape {list(value.shape)}, the engine takes {list(port.shape)}')
