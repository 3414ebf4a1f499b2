"""What a backend cannot take of a program, told from the program's folder alone: a line for each node or other reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.backend import Signature, read_json

GROUPS_OF_WEIGHTS = "quantized_decomposed.dequantize_per_channel_group"
"""The operator of graph.json by which a linear layer reads a weight that alone is integers."""


def refused_precision(program: Path, target: Mapping[str, Any]) -> list[str]:
    """One line if the target does not list the program's precision; a target that lists none takes all."""
    from edgekd.quant.precision import computes_in

    precision = read_json(program / "program.json").get("precision")
    listed = list(target.get("precisions") or ())
    if not target.get("precisions") or computes_in(str(precision)) in listed:
        return []
    return [f"the program is {precision}; the target {target.get('name', '')} takes {', '.join(map(str, listed))}"]


def refused_bare_metal(target: Mapping[str, Any], why: str) -> list[str]:
    """One line if the target's triple names no operating system, as "thumbv8.1m.main-none" does."""
    triple = str(target.get("triple", ""))
    return [f"the target is {triple}, without an operating system: {why}"] if "none" in triple.split("-")[1:] else []


def refused_grid(program: Path, taken: Sequence[str]) -> list[str]:
    """One line if an int8 program was quantized on a grid that is not among `taken`."""
    about = read_json(program / "program.json")
    if about.get("precision") != "int8" or about.get("grid") in taken:
        return []
    return [f"quantized on the grid {about.get('grid')}; this backend takes {' or '.join(taken)}"]


def refused_graph(program: Path, refused: Mapping[str, str]) -> list[str]:
    """A line for each node of graph.json whose operator is in `refused` (with the reason), or that could not be written."""
    found = read_json(program / "graph.json")
    lines = [str(line) for line in found.get("refused", ())]
    for name, operator, *_ in found.get("nodes", ()):
        reason = refused.get(operator.rpartition(".")[0])
        if reason:
            lines.append(f"node {name} ({operator}): {reason}")
    return lines


def fixed_shapes(program: Path) -> list[str]:
    """A line for each input with a dynamic dimension, of a backend that compiles for fixed shapes only."""
    return [
        f'input "{port.name}" has the dynamic shape {list(port.shape)}; this backend compiles for fixed shapes'
        for port in Signature.read(program).inputs
        if not all(isinstance(size, int) for size in port.shape)
    ]
