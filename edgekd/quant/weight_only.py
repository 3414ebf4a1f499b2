"""Linear layers whose weights alone are integers, in groups along what is summed over: the same integers for torch and ONNX.

`layers` rounds the weights of a network, `with_integers` makes it the program that dequantizes them, and `folded` the float
network that computes with what they stand for, to the bit; from that one torch exports what `packed_file` gives the integers
again, as MatMulNBits (`edgekd.quant.onnx_weights`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed
from torch.fx import GraphModule, Node

from edgekd.errors import EdgekdError, UserError
from edgekd.onnx.file import constants_to_initializers
from edgekd.onnx.slim import slimmed
from edgekd.quant.fold import fold_batch_norm
from edgekd.quant.onnx_weights import Packed, packed_weights
from edgekd.quant.precision import GROUP, Precision
from edgekd.quant.quantizer import KINDS, layer_name
from edgekd.quant.tables import free_name
from edgekd.quant.torchao import quiet
from edgekd.quant.trace import trace
from edgekd.signature import Signature

__all__ = [
    "alone",
    "errors",
    "folded",
    "layers",
    "narrowed",
    "packed_file",
    "round_alone",
    "traced",
    "with_integers",
]

DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_channel_group.default
SLICE = torch.ops.aten.slice.Tensor


def traced(network: nn.Module, example: torch.Tensor) -> GraphModule:
    """The network as a graph, batch norms folded into the layers before them; `example` [batch, …] gives shapes."""
    graph = trace(network, example, train=False)
    fold_batch_norm(graph)
    return GraphModule(graph, graph.graph)


def layers(graph: GraphModule, bits: int, group: int) -> dict[str, Packed]:
    """The weights of all linear layers of a group of inputs or more, rounded, by the name of the layer, in order.

    Raises UserError for a network that has none.
    """
    linear = _linear(graph)
    found = {
        name: Packed.of(weight.numpy(), bits, group) for name, (_, weight) in linear.items() if weight.shape[1] >= group
    }
    if not found:
        widest = ", ".join(f"{name} has {weight.shape[1]}" for name, (_, weight) in linear.items()) or "there is none"
        message = f"quantize_weights: no linear layer has {group} inputs or more: {widest}"
        raise UserError(
            message, hint='a smaller group, of 16 or more; or `use = "quantize"`, which takes convolutions too'
        )
    return found


def errors(graph: GraphModule, bits: int, group: int) -> dict[str, float]:
    """‖ŵ − w‖² / ‖w‖² of each layer's weight, by its name. Raises UserError as `layers` does."""
    linear, found = _linear(graph), {}
    for name, packed in layers(graph, bits, group).items():
        weight = linear[name][1].double()
        apart = torch.from_numpy(packed.values()).double() - weight
        found[name] = float(apart.square().sum() / weight.square().sum().clamp_min(1e-30))
    return found


def with_integers(graph: GraphModule, packed: Mapping[str, Packed]) -> GraphModule:
    """The graph, changed in place: these layers read u8 constants through a dequantization, (q − zero) · scale."""
    for name, (nodes, _) in _linear(graph).items():
        if name not in packed:
            continue
        one, first = packed[name], nodes[0]
        q, zeros = (torch.from_numpy(held.copy()) for held in one.integers())
        constants = {
            "integers": q.flatten(1),
            "scales": torch.from_numpy(one.scales.copy()),
            "zeros": zeros.to(torch.int32),  # u8 less u8 would wrap around
        }
        read = [_constant(graph, first, f"{name}_{end}", value) for end, value in constants.items()]
        limits = (0, 2**one.bits - 1, torch.uint8, one.group, torch.float32)
        with graph.graph.inserting_before(first):
            weight = graph.graph.call_function(DEQUANTIZE, (*read, *limits))
            if one.columns % one.group:  # the last group is filled with zeros
                weight = graph.graph.call_function(SLICE, (weight, 1, 0, one.columns))
        for node in nodes:
            node.update_arg(1, weight)
    return _cleaned(graph)


def alone(graph: GraphModule, bits: Mapping[str, int]) -> dict[str, Packed]:
    """The weights of these linear layers, which read them as they are, rounded in groups of `GROUP`."""
    return {
        name: Packed.of(weight.numpy(), bits[name], GROUP)
        for name, (_, weight) in _linear(graph).items()
        if name in bits
    }


def narrowed(program: GraphModule, precision: Precision) -> GraphModule:
    """A converted program, changed in place: the layers that `precision` has weights alone for read these as integers."""
    return with_integers(program, alone(program, precision.grouped)) if precision.grouped else program


def round_alone(graph: GraphModule, bits: Mapping[str, int]) -> None:
    """Round them in place: the values that their integers stand for."""
    for name, packed in alone(graph, bits).items():
        _linear(graph)[name][1].copy_(torch.from_numpy(packed.values()))


def folded(program: nn.Module) -> tuple[nn.Module, list[Packed]]:
    """A copy that reads the values in place of the integers that stand for them, and these; of any other program itself and none."""
    if not isinstance(program, GraphModule) or all(node.target is not DEQUANTIZE for node in program.graph.nodes):
        return program, []
    with quiet():
        graph, found = copy.deepcopy(program), []
    for node in [one for one in graph.graph.nodes if one.target is DEQUANTIZE]:
        q, scales, zeros = (getattr(graph, str(held.target)).numpy() for held in node.args[:3])
        _, most, _, group, _ = node.args[3:]
        (user, *_) = node.users
        columns = user.args[3] if user.target is SLICE else q.shape[1]
        found.append(Packed.from_integers(q, scales, zeros, int(most).bit_length(), group, columns))
        end = user if user.target is SLICE else node
        end.replace_all_uses_with(_constant(graph, node, f"{node.name}_values", torch.from_numpy(found[-1].values())))
    return _cleaned(graph), found


def packed_file(folder: Path, packed: Sequence[Packed]) -> None:
    """Give the linear layers of `model.onnx`, beside its signature, the integers that their values stand for.

    Raises EdgekdError where a layer's weight is not found again in what torch exported.
    """
    path, feed = folder / "model.onnx", Signature.read(folder).feed(0)
    written = constants_to_initializers(onnx.load(path))
    pairs = any(node.op_type == "QuantizeLinear" for node in written.graph.node)
    for model in [written] if pairs else [slimmed(written, feed), written]:  # what is folded may take a weight with it
        found, count = packed_weights(model, packed)
        if count >= len(packed):
            onnx.save(found, path)
            return
    kinds = ", ".join(sorted({node.op_type for node in written.graph.node}))
    message = f"only {count} of {len(packed)} linear layers were found in the exported graph ({kinds})"
    raise EdgekdError(message, hint="leave the stage out; and please report it, with the network")


def _linear(graph: GraphModule) -> dict[str, tuple[list[Node], torch.Tensor]]:
    """By the name of the layer: the operators that read its weight, which is constant, and that weight [N, K] in float32."""
    found: dict[str, tuple[list[Node], torch.Tensor]] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or node.target not in KINDS["linear"] or node.args[1].op != "get_attr":
            continue
        value: Any = graph
        for part in str(node.args[1].target).split("."):
            value = getattr(value, part)
        if value.dtype == torch.float32 and value.dim() == 2:
            found.setdefault(layer_name(node), ([], value.detach()))[0].append(node)
    return found


def _constant(graph: GraphModule, before: Node, name: str, value: torch.Tensor) -> Node:
    """A constant of the graph, read before a node."""
    name = free_name(graph, name.replace(".", "_"))
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(name)


def _cleaned(graph: GraphModule) -> GraphModule:
    """Without what nothing reads now, the float weights or the integers."""
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return GraphModule(graph, graph.graph).eval()
