"""Pairs taken out of a quantized graph for torch, around chosen operators: placements for runtimes that compile graph.json.

What `lift`, `sites` and `pairs` do for ONNX, on one graph: nothing is written anew, so scales and integers stay the program's. An
operator without its pairs reads what was there before they rounded it, and multiplies by the values that its integers stand for.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence

from torch import fx

from edgekd.cuts import Link
from edgekd.quant.quantizer import KINDS
from edgekd.quant.sites import Site
from edgekd.quant.torch_rewrite import DEQUANTIZE, DEQUANTIZE_WEIGHT, FUSED, QUANTIZE, float_weight, is_product

__all__ = ["PRODUCT", "covered", "links_of", "place", "sites_of"]

CALLED = {
    "conv2d": "Conv",
    "linear": "Gemm",
    "add": "Add",
    "mul": "Mul",
    "concat": "Concat",
    "average_pool": "AveragePool",
    "sigmoid": "Sigmoid",
    "max_pool": "MaxPool",
    "reshape": "Reshape",
}
"""What a backend's `integers` call the quantizer's kinds."""
KIND_OF = {target: CALLED[kind] for kind, targets in KINDS.items() if kind in CALLED for target in targets}
WEIGHTED = ("Conv", "Gemm")
PRODUCT = "MatMul"
"""A linear layer whose output stays float, and whose inputs the runtime rounds itself: no pair stands before it or behind."""


def sites_of(graph: fx.GraphModule, kinds: Collection[str]) -> list[Site]:
    """The operators of these kinds that the program runs as integers, in the graph's order: what has pairs before and behind."""
    found = []
    for node in graph.graph.nodes:
        if PRODUCT in kinds and is_product(graph, node):
            found.append(Site((node.name,), PRODUCT, (), "", (node.args[1].name, 0)))
            continue
        kind, end = KIND_OF.get(node.target), _end(node)
        if kind not in kinds or [user.target for user in end.users] != [QUANTIZE]:
            continue
        read = [one for one in node.all_input_nodes if not _is_constant(one)]
        weights = [one.name for one in node.all_input_nodes if one.target is DEQUANTIZE_WEIGHT]
        if not read or any(_source(one) is None for one in read) or bool(weights) != (kind in WEIGHTED):
            continue
        sources = tuple(dict.fromkeys(str(_source(one)) for one in read))
        weight = (weights[0], 0) if weights else None
        nodes = (node.name,) if end is node else (node.name, end.name)
        found.append(Site(nodes, str(kind), sources, end.name, weight))
    return found


def links_of(graph: fx.GraphModule, sites: Sequence[Site]) -> list[Link]:
    """The tensors that the program quantizes, by the names of what makes them."""
    inside = {name: site.name for site in sites for name in site.nodes}
    made = {site.output: site.name for site in sites}
    readers: dict[str, list[str | None]] = {}
    for source, pair in _pairs(graph):
        readers.setdefault(source.name, []).extend(inside.get(user.name) for user in pair.users)
    return [
        Link(name, made.get(name), tuple(dict.fromkeys(one for one in found if one)), leaves=None in found)
        for name, found in readers.items()
    ]


def covered(graph: fx.GraphModule, sites: Sequence[Site]) -> bool:
    """Whether these sites, all of them in integers, are the program as it came."""
    inside, made = {name for site in sites for name in site.nodes}, {site.output for site in sites}
    pairs = all(
        source.name in made or all(user.name in inside for user in pair.users) for source, pair in _pairs(graph)
    )
    weights = (node for node in graph.graph.nodes if node.target is DEQUANTIZE_WEIGHT)
    return pairs and all(user.name in inside for node in weights for user in node.users)


def place(graph: fx.GraphModule, sites: Sequence[Site], keep: Collection[str]) -> fx.GraphModule:
    """A copy in which of the sites only those named in `keep` run as integers.

    Of what an integer operator makes everyone reads the rounded values; of anything else only integer operators do.
    """
    placed = copy.deepcopy(graph)
    kept = [site for site in sites if site.name in keep]
    inside, made = {name for site in kept for name in site.nodes}, {site.output for site in kept}
    for source, pair in list(_pairs(placed)):
        if source.name not in made:
            for user in [one for one in pair.users if one.name not in inside]:
                user.replace_input_with(pair, source)
    for node in [one for one in placed.graph.nodes if one.target is DEQUANTIZE_WEIGHT]:
        if users := [user for user in node.users if user.name not in inside]:
            weight = float_weight(placed, node)
            for user in users:
                user.replace_input_with(node, weight)
    placed.graph.eliminate_dead_code()
    placed.graph.lint()
    placed.delete_all_unused_submodules()
    placed.recompile()
    return placed


def _pairs(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """(what is quantized, its dequantized form) of each pair, in the graph's order."""
    for node in graph.graph.nodes:
        source = _source(node)
        if source is not None:
            yield source, node


def _source(node: fx.Node) -> fx.Node | None:
    """What the pair that ends here quantizes; None of any other node."""
    if node.target is not DEQUANTIZE or not isinstance(node.args[0], fx.Node) or node.args[0].target is not QUANTIZE:
        return None
    source = node.args[0].args[0]
    return source if isinstance(source, fx.Node) and node.args[0].args[1:] == node.args[1:] else None


def _is_constant(node: fx.Node) -> bool:
    """Whether it is a stored tensor, or one that is dequantized."""
    first = node.args[0] if node.target in (DEQUANTIZE, DEQUANTIZE_WEIGHT) else node
    return isinstance(first, fx.Node) and first.op == "get_attr"


def _end(node: fx.Node) -> fx.Node:
    """The activation that the operator's kernel runs too, or itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in FUSED else node
