"""What each layer of a student takes otherwise than quantized, as engines of the whole student were measured to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd import digest
from edgekd.backend import read_json
from edgekd.errors import UserError
from edgekd.latency.table import Kind, Measured

FORMAT = 1
FILE = "layer_times.json"
WHOLE, QUANTIZED = 0, 1
"""Which engines of a race are the float student's and that with every layer quantized; behind them, one for each layer and way."""

Ways = Mapping[str, Sequence[str]]
"""The layers that are "float", and those whose weights alone are "int8" or "int4"; all others are quantized."""


@dataclass(frozen=True, eq=False)
class Times:
    """Seconds of engines on the `backend` whose quantized one is fastest; `fastest` is the float student's fastest anywhere.

    `whole`: the float student there; `quantized`: with every layer quantized; `layers`: what it takes more with that layer alone
    in each way, at least 0: where that is no slower, being quantized buys nothing. `measure` races, now, a student whose layers
    are so against the float one. `machine`: what this is true of.
    """

    backend: str
    fastest: float
    whole: float
    quantized: float
    layers: Mapping[str, Mapping[str, float]]
    machine: Mapping[str, Any]
    measure: Callable[[Ways], float] = field(repr=False)

    @classmethod
    def read(cls, path: Path, machine: Mapping[str, Any], measure: Callable[[str, float, Ways], float]) -> Times:
        """`measure(backend, seconds of the float student, ways)`. Raises UserError for times of another machine."""
        found = dict(read_json(path))
        try:
            if found.pop("format") != FORMAT:
                raise ValueError(f"this edgekd reads format {FORMAT}")
            backend, whole = str(found["backend"]), float(found["whole"])
            times = cls(**found, measure=lambda ways: measure(backend, whole, ways))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} holds no times of layers: {error!r}") from None
        if digest.of_json(times.machine) != digest.of_json(machine):
            message = "the times of the student's layers were measured on another machine, or with other versions"
            raise UserError(message, hint="run it with another --store, and they are measured here")
        return times


def tabled(
    rows: Mapping[Kind, Sequence[Measured]], alone: Sequence[tuple[str, str]], machine: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `FILE`, from each kind's engines: the float student's, the quantized one's, one for each (layer, way)."""
    kind = min(rows, key=lambda one: rows[one][QUANTIZED].seconds)
    seconds = [row.seconds for row in rows[kind]]
    layers: dict[str, dict[str, float]] = {}
    for (name, way), took in zip(alone, seconds[2:], strict=True):
        layers.setdefault(name, {})[way] = max(took - seconds[QUANTIZED], 0.0)
    return {
        "format": FORMAT,
        "backend": kind.backend,
        "fastest": min(row[WHOLE].seconds for row in rows.values()),
        "whole": seconds[WHOLE],
        "quantized": seconds[QUANTIZED],
        "layers": layers,
        "machine": dict(machine),
    }
