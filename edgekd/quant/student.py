"""A quantized student, rebuilt from its folder: factory, prune edits, and what its "quantize" edit says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule

from edgekd.quant import weight_only
from edgekd.quant.grid import named
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.pt2e import convert, prepare, restore
from edgekd.quant.tables import round_rows, with_integer_tables
from edgekd.student import Student

__all__ = ["prepared", "program"]


def prepared(student: Student, edit: Mapping[str, Any]) -> nn.Module:
    """The fake-quantized network, in eval mode; of weights alone the float network that has the values of the integers."""
    if edit["edit"] == "quantize_weights":
        return weight_only.folded(program(student, edit))[0]
    grid, precision = named(edit["grid"]), Precision.from_json(edit["precision"])
    graph = prepare(student.unloaded().eval(), student.example(2), grid, edit["observer"], edit["qat"], precision)
    restore(graph, student.weights())
    weight_only.round_alone(graph, precision.grouped)
    graph.eval()
    return graph


def program(student: Student, edit: Mapping[str, Any]) -> GraphModule:
    """The quantized program: integer weights, and quantize/dequantize pairs unless it is of weights alone."""
    if edit["edit"] == "quantize_weights":
        traced = weight_only.traced(student.network(), student.example(2))
        made = weight_only.with_integers(traced, weight_only.layers(traced, edit["bits"], edit["group"]))
        if edit.get("embeddings", FLOAT) < FLOAT:
            round_rows(made)  # only now, since a tied layer no longer reads the table
            return with_integer_tables(made)
        return made
    graph = prepared(student, edit)
    assert isinstance(graph, GraphModule)
    return weight_only.narrowed(convert(graph), Precision.from_json(edit["precision"]))
