"""A quantized student, rebuilt from its folder: factory, prune edits, prepared graph, stored state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import GraphModule

from edgekd.quant.grid import named
from edgekd.quant.precision import Precision
from edgekd.quant.pt2e import convert, prepare, restore
from edgekd.student import Student

__all__ = ["prepared", "program"]


def prepared(student: Student, edit: Mapping[str, Any]) -> GraphModule:
    """The fake-quantized network of a "quantize" edit, in eval mode."""
    grid, precision = named(edit["grid"]), Precision.from_json(edit["precision"])
    graph = prepare(student.unloaded().eval(), student.example(2), grid, edit["observer"], edit["qat"], precision)
    restore(graph, student.weights())
    graph.eval()
    return graph


def program(student: Student, edit: Mapping[str, Any]) -> GraphModule:
    """The quantized program: integer weights and quantize/dequantize pairs."""
    return convert(prepared(student, edit))
