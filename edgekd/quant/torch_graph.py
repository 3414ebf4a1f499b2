"""The program as a graph that torch runs, kept as data: operators in graph.json, constants in weights.safetensors.

    graph.json     {"format": 1, "inputs": [name…], "nodes": [[name, operator, arguments, keywords]…], "output": …}
                   or {"format": 1, "refused": [a line for each node that cannot be written]}

`torch.export.save` would be shorter, but `torch.export.load` (torch 2.13) unpickles constants with `weights_only=False`,
falls back to that for example inputs, and gives text to sympy's parser, which evaluates it. Here a node is the name of an
operator of `NAMESPACES` with plain arguments; every name is checked before it becomes part of a graph.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import fx
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed
from torch.export import ExportedProgram

from edgekd.backend import read_json
from edgekd.errors import UserError
from edgekd.student import write_tensors

__all__ = ["FILES", "read_graph", "tensors", "write_graph"]

FILES = ("graph.json", "weights.safetensors")
FORMAT = 1
NAMESPACES = ("aten", "quantized_decomposed")
GETITEM = "getitem"
KINDS = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}


def write_graph(program: ExportedProgram, folder: Path) -> None:
    """Write the two files. What cannot be written as data is named in graph.json, for a backend to refuse."""
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    inputs, nodes, refused, tensors = [], [], [], {}
    output: Any = None
    for node in graph.graph.nodes:
        try:
            if node.op == "placeholder":
                inputs.append(node.name)
            elif node.op == "get_attr":
                if not node.users:
                    continue  # a batch norm's counter
                tensors[node.name] = _attribute(graph, node.target).detach().clone()
            elif node.op == "output":
                output = _written(node.args[0])
            else:
                nodes.append([node.name, _operator(node), _written(node.args), _written(dict(node.kwargs))])
        except _CannotWriteError as reason:
            refused.append(f"node {node.name}: {reason}")
    write_tensors(folder / FILES[1], tensors)
    found = {"refused": refused} if refused else {"inputs": inputs, "nodes": nodes, "output": output}
    (folder / FILES[0]).write_text(json.dumps({"format": FORMAT, **found}, allow_nan=False), "utf-8")


class _CannotWriteError(Exception):
    """What of a node is no plain data."""


def _attribute(module: torch.nn.Module, target: str) -> torch.Tensor:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    if not isinstance(value, torch.Tensor):
        raise _CannotWriteError(f"a constant of type {type(value).__name__}")
    return value


def _operator(node: fx.Node) -> str:
    if node.target is operator.getitem:
        return GETITEM
    name = str(node.target)
    if not isinstance(node.target, torch._ops.OpOverload) or name.partition(".")[0] not in NAMESPACES:
        raise _CannotWriteError(
            f"the operator {getattr(node.target, '__name__', name)} is not of {', '.join(NAMESPACES)}"
        )
    return name


def _written(value: Any) -> Any:
    """An argument as JSON; what JSON has no word for is an object of one key."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_written(one) for one in value]
    if isinstance(value, dict):
        return {"table": {key: _written(one) for key, one in value.items()}}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for kind, cls in KINDS.items():
        if isinstance(value, cls):
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise _CannotWriteError(f"an argument of type {type(value).__name__}")


def read_graph(folder: Path) -> fx.GraphModule:
    """The graph as a module in eval mode: tensors in, a list of tensors out.

    Raises UserError if the files are missing or damaged, or name anything but operators of `NAMESPACES`.
    """
    file = folder / FILES[0]
    found = read_json(file)
    if found.get("format") != FORMAT or "nodes" not in found:
        refused = found.get("refused") or [f"format {found.get('format')}, this edgekd reads {FORMAT}"]
        raise UserError(f"{file}: {'; '.join(refused)}")
    try:
        tensors = load_file(folder / FILES[1])
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / FILES[1]}: cannot be read: {error}") from None
    try:
        return _built(found, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a graph: {type(error).__name__}: {error}") from None


def _built(found: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    graph = fx.Graph()
    known: dict[str, fx.Node] = {}
    for name in found["inputs"]:
        known[name] = graph.placeholder(_identifier(name))
    for name in sorted(tensors):
        known[name] = graph.create_node("get_attr", _identifier(name), name=name)
    for name, target, args, kwargs in found["nodes"]:
        values = tuple(_read(args, known)), _read(kwargs, known)
        known[name] = graph.create_node("call_function", _resolved(target), *values, name=_identifier(name))
    graph.output(_read(found["output"], known))
    graph.lint()
    return fx.GraphModule(dict(tensors), graph).eval()


def _identifier(name: str) -> str:
    """`name`, if it can stand in the Python that torch writes for a graph and be nothing but a name there."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name")
    return name


def _resolved(target: str) -> Callable[..., Any]:
    if target == GETITEM:
        return operator.getitem
    match = re.fullmatch(r"(\w+)\.(\w+)\.(\w+)", target)
    if not match or match[1] not in NAMESPACES or match[2] == "from_file":
        raise ValueError(f"{target!r} is no operator of {', '.join(NAMESPACES)}")
    found = getattr(getattr(getattr(torch.ops, match[1]), match[2]), match[3])
    if not isinstance(found, torch._ops.OpOverload):
        raise TypeError(f"{target!r} is no operator")
    return found


def _read(value: Any, known: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_read(one, known) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "node":
        return known[held]
    if kind == "table":
        return {_identifier(key): _read(one, known) for key, one in held.items()}
    if kind == "float":
        return float(held)
    if kind == "device":
        return torch.device(held)
    cls = KINDS[kind]
    found = getattr(torch, held)
    if not isinstance(found, cls):
        raise TypeError(f"{held!r} is no {kind}")
    return found


def tensors(graph: fx.GraphModule, samples: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """What every node gives for inputs [samples, ...] of one port, one at a time: [samples, ...] by the node's name, in order.

    Last come the graph's own outputs, by the names `outputs`.
    """
    seen: dict[str, list[np.ndarray]] = {}

    class Seeing(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.op == "call_function" and isinstance(result, torch.Tensor):
                seen.setdefault(n.name, []).append(result.numpy())
            return result

    given: list[Sequence[torch.Tensor]] = []
    with torch.no_grad():
        given.extend(Seeing(graph).run(torch.from_numpy(sample)) for sample in samples)
    ends = {name: [one[index].numpy() for one in given] for index, name in enumerate(outputs)}
    return {name: np.stack(values) for name, values in (seen | ends).items()}
