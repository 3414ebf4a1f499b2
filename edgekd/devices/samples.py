"""Arrays as a device takes and gives them: each port's elements in C order, sample behind sample, in one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgekd.backend import Array, Port, Signature
from edgekd.devices.link import LinkError
from edgekd.errors import UserError


def samples(ports: Sequence[Port], inputs: Sequence[Array]) -> Iterator[list[Array]]:
    """Whole inputs of an engine out of arrays [samples, …]; a batch that is not full repeats its last sample."""
    shapes = [port.concrete(1) for port in ports]
    whole = any(array.ndim > len(shape) for array, shape in zip(inputs, shapes, strict=True))
    batch = 1 if whole else shapes[0][0]
    for start in range(0, len(inputs[0]), batch):
        taken = []
        for array, shape, port in zip(inputs, shapes, ports, strict=True):
            value = array[start] if whole else array[start : start + batch]
            if not whole and len(value) < batch:
                value = np.concatenate([value, np.repeat(value[-1:], batch - len(value), axis=0)])
            if value.shape != shape:
                raise UserError(f'input "{port.name}" has shape {list(value.shape)}, a device is given {list(shape)}')
            taken.append(np.ascontiguousarray(value, dtype=port.dtype))
        yield taken


def arrays(signature: Signature, held: bytes, count: int, inputs: Sequence[Array], label: str) -> list[Array]:
    """Outputs [samples, …] a port out of `count` results, one behind the other. Raises LinkError (garbage) for other bytes."""
    ports = [(port.concrete(1), np.dtype(port.dtype)) for port in signature.outputs]
    row = np.dtype([(f"{i}", dtype, shape) for i, (shape, dtype) in enumerate(ports)])
    if len(held) != count * row.itemsize:
        message = f"{label}: {len(held)} bytes of outputs, {count * row.itemsize} expected"
        raise LinkError(message, reason="garbage")
    rows = np.frombuffer(held, row)
    whole = any(array.ndim > len(port.shape) for array, port in zip(inputs, signature.inputs, strict=True))
    found = [rows[name] for name in row.names or ()]
    return [a if whole else a.reshape(-1, *a.shape[2:])[: len(inputs[0])] for a in found]
