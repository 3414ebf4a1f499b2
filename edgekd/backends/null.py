"""A simulated device: engines with a given latency, noise and output rule, so that all above is tested exactly.

Its settings are `target["null"]`, all optional:

    seconds, seconds_per_byte   a call takes seconds + seconds_per_byte * bytes of the program's model.onnx,
    seconds_per_tile, tile      and seconds_per_tile for each block of tile × tile channels (default 8) of each weight,
                                times its kernel: a device whose latency steps at channel multiples,
    integer                     times this factor when the program is int8 (default 0.5)
    noise                       fields of edgekd.latency.clock.Noise (default: none)
    seed, step                  outputs = inputs, flattened, times a fixed matrix drawn from the seed; rounded to step.
                                cmake/src/session_null.cpp draws the same
    unsupported                 lines to answer when asked what it cannot take
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from edgekd.backend import (
    Array,
    Backend,
    Port,
    Session,
    Signature,
    read_engine,
    read_json,
    write_engine,
    write_json,
)
from edgekd.errors import UserError, nearest
from edgekd.latency.clock import Noise, VirtualClock
from edgekd.refusals import refused_precision

__all__ = ["Null"]

DEFAULTS: dict[str, Any] = {
    "seconds": 1e-4,
    "seconds_per_byte": 1e-9,
    "seconds_per_tile": 0.0,
    "tile": 8,
    "integer": 0.5,
    "noise": {},
    "seed": 0,
    "step": 0.0,
    "unsupported": [],
}


class NullSession(Session):
    """Computes the rule with numpy; each call moves its virtual clock by the simulated latency."""

    clock: VirtualClock

    def __init__(self, signature: Signature, clock: VirtualClock, seed: int, step: float) -> None:
        super().__init__(signature, clock)
        self._seed, self._step = seed, step
        self._matrices: dict[int, list[Array]] = {}

    @property
    def latency(self) -> float:
        """Seconds that the last call took on the simulated device."""
        return self.clock.latency

    def compute(self, inputs: Sequence[Array]) -> list[Array]:
        batch = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
        flat = np.concatenate([x.reshape(batch, -1).astype(np.float32) for x in inputs], axis=1)
        matrices = self._matrices.get(flat.shape[1])
        if matrices is None:
            widths = [math.prod(port.concrete(1)[1:]) for port in self.signature.outputs]
            drawn = _uniform(self._seed, flat.shape[1] * sum(widths)) * math.sqrt(3 / flat.shape[1])
            ends = np.cumsum([flat.shape[1] * width for width in widths])[:-1]
            parts = np.split(drawn.astype(np.float32), ends)
            matrices = [part.reshape(flat.shape[1], width) for part, width in zip(parts, widths, strict=True)]
            self._matrices[flat.shape[1]] = matrices
        self.clock.advance()
        return [self._shaped(flat @ m, port) for m, port in zip(matrices, self.signature.outputs, strict=True)]

    def _shaped(self, values: Array, port: Port) -> Array:
        if self._step:
            values = np.rint(values / self._step) * self._step
        return values.reshape(len(values), *port.concrete(1)[1:]).astype(port.dtype)

    def release(self) -> None:
        self._matrices.clear()


def _uniform(seed: int, count: int) -> Array:
    """`count` numbers in [-1, 1) from the 24 highest bits of SplitMix64, which every language can draw alike.

    Source: Steele, Lea, Flood 2014, doi 10.1145/2660193.2660195, figure 17.
    """
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    top = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
    return np.asarray(2 * (top / 2**24) - 1)


@final
class Null(Backend):
    """The simulated device behind the protocol. `target["null"]` holds its settings."""

    name: ClassVar[str] = "null"
    packages: ClassVar[Mapping[str, str]] = {"numpy": "numpy"}

    def grid(self, target: Mapping[str, Any]) -> str:
        return "affine"

    def unsupported(self, program: Path, target: Mapping[str, Any]) -> list[str]:
        return [*refused_precision(program, target), *map(str, _settings(target)["unsupported"])]

    def compile(self, program: Path, out: Path, target: Mapping[str, Any], threads: int) -> dict[str, Any]:
        settings, about = _settings(target), read_json(program / "program.json")
        size = (program / "model.onnx").stat().st_size
        integer = about["precision"] == "int8"
        seconds = settings["seconds"] + settings["seconds_per_byte"] * size
        if settings["seconds_per_tile"]:
            seconds += settings["seconds_per_tile"] * _tiles(program / "model.onnx", settings["tile"])
        seconds *= settings["integer"] if integer else 1
        noise = asdict(Noise(**settings["noise"]))
        rule = {"seconds": seconds, "noise": noise, "seed": settings["seed"], "step": settings["step"]}
        VirtualClock(seconds, Noise(**noise))
        write_json(out / "device.json", rule)
        return write_engine(
            program,
            out,
            {
                "backend": self.name,
                "file": "device.json",
                "versions": self.versions(),
                "threads": threads,
                "integer_nodes": int(integer),
                "float_nodes": int(not integer),
                "delegated_share": 1.0 if integer else None,
                "options": {},
            },
        )

    def load(self, engine: Path) -> NullSession:
        _, file = read_engine(engine, self.name)
        rule = read_json(file)
        clock = VirtualClock(rule["seconds"], Noise(**rule["noise"]), rule["seed"])
        return NullSession(Signature.read(engine), clock, rule["seed"], rule["step"])


def _tiles(model: Path, tile: int) -> int:
    """Σ ⌈out / tile⌉ · ⌈in / tile⌉ · kernel over the weights of a model: tensors of two dimensions or more."""
    import onnx

    shapes = [list(weight.dims) for weight in onnx.load(model).graph.initializer if len(weight.dims) > 1]
    return sum(-(-shape[0] // tile) * -(-shape[1] // tile) * math.prod(shape[2:]) for shape in shapes)


def _settings(target: Mapping[str, Any]) -> dict[str, Any]:
    given = target.get("null") or {}
    for key in given:
        if key not in DEFAULTS:
            raise UserError(f'the null backend has no setting "{key}"', hint=nearest(key, DEFAULTS))
    return {**DEFAULTS, **given}
