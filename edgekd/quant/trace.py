"""A student as a graph of ATen operators, with a free batch dimension, ready to be annotated."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edgekd.errors import UserError
from edgekd.quant.quantizer import BATCH_NORM
from edgekd.quant.torchao import quiet

__all__ = ["set_training", "trace"]

DROPOUT = torch.ops.aten.dropout.default
#: The literal argument of each operator that says whether the network trains.
TRAINING_ARGUMENT: dict[Any, int] = {BATCH_NORM: 5, DROPOUT: 2}


def trace(model: nn.Module, example: torch.Tensor, *, train: bool) -> GraphModule:
    """Export a copy of `model`; `example` [batch, …] gives shapes, the batch stays free. Parameters keep their names.

    In-place operators become plain ones and batch norm's counters of batches go, so that running the graph changes nothing
    but running statistics. Raises UserError where the student cannot be exported or fixes its batch size.
    """
    model = copy.deepcopy(model).train(train)
    two = torch.cat([example[:1], example[:1]])
    shapes = ({0: torch.export.Dim.AUTO},)
    try:
        with quiet():
            graph = torch.export.export(model, (two,), dynamic_shapes=shapes).module(check_guards=False)
    except Exception as error:
        raise UserError(
            f"the student cannot be exported as a graph: {_where(error)}{type(error).__name__}: {_first_line(error)}",
            hint="write forward() without Python control flow that depends on tensor values (torch.where, not if)",
        ) from error
    if not isinstance(graph, GraphModule):
        raise TypeError(f"torch.export gave a {type(graph).__name__}, not a GraphModule")
    entry = next(node for node in graph.graph.nodes if node.op == "placeholder")
    if isinstance(entry.meta["val"].shape[0], int):
        raise UserError(
            "the student fixes its batch size in forward()",
            hint="take the batch size from the input, as in x.flatten(1) or x.reshape(x.shape[0], -1)",
        )
    _remove_counters(graph)
    _make_functional(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return GraphModule(graph, graph.graph)


def set_training(graph: GraphModule, mode: bool, *, frozen: frozenset[Callable[..., Any]] = frozenset()) -> None:
    """What `train(mode)` is to a module: sets batch norm and dropout; operators in `frozen` stay in eval mode."""
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in TRAINING_ARGUMENT:
            node.update_arg(TRAINING_ARGUMENT[node.target], mode and node.target not in frozen)
    for module in graph.modules():
        module.training = mode
    graph.recompile()


def _remove_counters(graph: GraphModule) -> None:
    for node in list(graph.graph.nodes):
        counter = node.args[0] if node.target is torch.ops.aten.add_.Tensor else None
        if isinstance(counter, Node) and str(counter.target).endswith("num_batches_tracked"):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _make_functional(graph: GraphModule) -> None:
    """relu_(x) becomes relu(x), and what reads x after it reads the result."""
    order = {node: i for i, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        target = node.target
        if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
            continue
        packet = target._schema.name.partition("::")[2]
        if not (target.namespace == "aten" and packet.endswith("_") and not packet.startswith("_")):
            continue
        plain = getattr(getattr(torch.ops.aten, packet[:-1], None), target._overloadname, None)
        changed = node.args[0]
        if plain is None or not isinstance(changed, Node) or changed.op == "get_attr":
            continue
        node.target = plain
        for reader in list(changed.users):
            if order[reader] > order[node]:
                reader.replace_input_with(changed, node)


def _where(error: BaseException) -> str:
    """`file:line (in module): ` of the user's innermost frame that torch names in its message, or nothing."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', str(error))
    own = [frame for frame in frames if "/torch/" not in frame[0]]
    current: BaseException | None = error
    while not own and current is not None:
        step = current.__traceback__
        while step is not None:
            name = step.tb_frame.f_code.co_filename
            if "/torch/" not in name and name != __file__ and not name.startswith("<"):
                module = step.tb_frame.f_locals.get("self")
                owner = type(module).__name__ if isinstance(module, nn.Module) else step.tb_frame.f_code.co_name
                own.append((name, str(step.tb_lineno), owner))
            step = step.tb_next
        current = current.__cause__ or current.__context__
    return f"{own[-1][0]}:{own[-1][1]} (in {own[-1][2]}): " if own else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
