"""The cheapest placement of integers by known costs, as a minimum cut; and the islands that a placement falls into. No runtime.

A *site* is an operator (with the ReLU behind it) that a runtime can run in float or in integers. A tensor between sites that
differ costs a quantization or a dequantization, once however many read it. With the cost of every site in both forms known,
the cheapest placement of all is a minimum cut: found exactly, not by trying.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

Keep = frozenset[str]
"""Names of the sites that run as integers; the others run in float."""

FLOAT: Keep = frozenset()
TICK = 1e-12  # seconds: capacities are whole numbers, so that a flow ends


@dataclass(frozen=True)
class Link:
    """A tensor: the site that makes it (none: what stays in float), the sites that read it as integers.

    `leaves`: something that stays in float reads it too. `free`: its maker's integer kernel gives floats at no cost.
    """

    tensor: str
    producer: str | None
    readers: tuple[str, ...]
    leaves: bool = False
    free: bool = False


@dataclass(frozen=True)
class Costs:
    """Seconds of a call: of each site in float and in integers, of quantizing and of dequantizing each tensor."""

    floats: Mapping[str, float]
    integers: Mapping[str, float]
    quantize: Mapping[str, float] = field(default_factory=dict)
    dequantize: Mapping[str, float] = field(default_factory=dict)

    def measured_after(self, newer: Costs) -> Costs:
        """These, where `newer` does not know better."""
        names = ("floats", "integers", "quantize", "dequantize")
        return Costs(**{name: {**getattr(self, name), **getattr(newer, name)} for name in names})

    def barring(self, sites: Iterable[str]) -> Costs:
        """The same with these sites kept in float."""
        return replace(self, integers={**self.integers, **dict.fromkeys(sites, math.inf)})


def seconds(links: Sequence[Link], costs: Costs, keep: Keep) -> float:
    """What a placement costs: Σ over sites in their form, and the conversions of the tensors between the forms."""
    total = sum(costs.integers.get(s, math.inf) if s in keep else t for s, t in costs.floats.items())
    for link in links:
        integer = [reader in keep for reader in link.readers]
        if link.producer in keep:
            if not link.free and (link.leaves or not all(integer)):
                total += costs.dequantize.get(link.tensor, 0.0)
        elif any(integer):
            total += costs.quantize.get(link.tensor, 0.0)
    return total


def cheapest(links: Sequence[Link], costs: Costs) -> Keep:
    """The placement that costs least.

    Costs of a binary label for each site and, for each tensor, a cost where labels differ, are least at a minimum s-t cut:
    sites on the source's side are integers. A tensor that several read has a node of its own, cut at most once.

    Source: Greig, Porteous, Seheult 1989, doi 10.1111/j.2517-6161.1989.tb01764.x, section 2.
    """
    edges: dict[str, dict[str, int]] = {}
    never = 1 + sum(_ticks(t) for table in vars(costs).values() for t in table.values() if math.isfinite(t))

    def add(a: str, b: str, cost: float) -> None:
        ticks = _ticks(cost) if math.isfinite(cost) else never
        edges.setdefault(a, {})[b] = edges.setdefault(a, {}).get(b, 0) + ticks
        edges.setdefault(b, {}).setdefault(a, 0)

    edges.update({"source": {}, "sink": {}})
    for site, cost in costs.floats.items():
        add("source", f"site {site}", cost)
        add(f"site {site}", "sink", costs.integers.get(site, math.inf))
    for link in links:
        quantize, dequantize = costs.quantize.get(link.tensor, 0.0), costs.dequantize.get(link.tensor, 0.0)
        maker = "sink" if link.producer is None else f"site {link.producer}"
        if link.readers:
            add(f"to {link.tensor}", maker, quantize)
        for reader in link.readers:
            add(f"site {reader}", f"to {link.tensor}", math.inf)
        if link.producer is None or link.free:
            continue
        if link.leaves:
            add(maker, "sink", dequantize)
            continue
        add(maker, f"from {link.tensor}", dequantize)
        for reader in link.readers:
            add(f"from {link.tensor}", f"site {reader}", math.inf)
    reached = _source_side(edges)
    return frozenset(site for site in costs.floats if f"site {site}" in reached)


def _ticks(cost: float) -> int:
    return max(0, round(cost / TICK))


def _source_side(edges: dict[str, dict[str, int]]) -> set[str]:
    """The nodes that the source still reaches once the flow to the sink is largest. `edges` hold what is left of each.

    Source: Edmonds, Karp 1972, doi 10.1145/321694.321699, section 1: paths with the fewest edges first.
    """
    while True:
        came, queue = {"source": ""}, deque(["source"])
        while queue and "sink" not in came:
            here = queue.popleft()
            for there, left in edges[here].items():
                if left > 0 and there not in came:
                    came[there] = here
                    queue.append(there)
        if "sink" not in came:
            return set(came)
        path, there = [], "sink"
        while came[there]:
            path.append((came[there], there))
            there = came[there]
        flow = min(edges[a][b] for a, b in path)
        for a, b in path:
            edges[a][b] -= flow
            edges[b][a] += flow


def islands(links: Sequence[Link], keep: Keep) -> list[Keep]:
    """The sites that hang together in integers: one makes what the other reads, or both read one quantized tensor."""
    parent = {site: site for site in sorted(keep)}

    def root(site: str) -> str:
        while parent[site] != site:
            site = parent[site]
        return site

    for link in links:
        ends = [site for site in (link.producer, *link.readers) if site in keep and site is not None]
        for other in ends[1:]:
            parent[root(other)] = root(ends[0])
    found: dict[str, set[str]] = {}
    for site in parent:
        found.setdefault(root(site), set()).add(site)
    return sorted((frozenset(one) for one in found.values()), key=lambda one: (-len(one), sorted(one)))
