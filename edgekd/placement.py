"""Which operators run as integers, decided by measured cost: cuts of least cost, raced, and quiet enough. No runtime here.

A *site* is an operator (with the ReLU behind it) that a runtime can run in float or in integers. A tensor between sites that
differ costs a quantization or a dequantization, once however many read it. With the cost of every site in both forms known,
the cheapest placement of all is a minimum cut: found exactly, not by trying. Costs are measured in a context that the
placement itself changes, so a few rounds of placing and measuring follow, and nothing counts but the race at the end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgekd.latency.statistics import Ratio
from edgekd.metric import EXACT

Keep = frozenset[str]
"""Names of the sites that run as integers; the others run in float."""

Compare = Callable[[Keep, Keep], Ratio]
"""Latency of one placement's engine over another's, raced side by side."""

FLOAT: Keep = frozenset()
ROUNDS = 3
MOST_ISLANDS = 6
MARGIN = 0.8  # of the noise allowed: what sites lose alone does not add up exactly
HOPELESS = 1.1  # times what float takes: a screened placement that is slower than that is not raced again
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


class Bench(ABC):
    """What a search may ask of a device: each answer is measured on engines of the placements asked about."""

    @abstractmethod
    def costs(self, keep: Keep) -> Costs | None:
        """What a profile of this placement's engine says: seconds of the sites in the form that they have in it, and of the
        conversions in it. None where the runtime has no profiler, or the engine could not be made.
        """

    @abstractmethod
    def race(self, keeps: Sequence[Keep], screening: bool = False) -> tuple[Mapping[Keep, float], Compare]:
        """Median seconds of each placement that could be raced (float always can), and how they compare.

        `screening`: one process is enough, since nothing is decided by an interval.
        """

    @abstractmethod
    def sqnr(self, keep: Keep) -> float:
        """dB, of the worst output, against the float model."""


@dataclass(frozen=True)
class Island:
    """Sites that hang together, and what the engine takes without them over what it takes with them."""

    sites: tuple[str, ...]
    without: Ratio
    bought: float


@dataclass(frozen=True)
class Found:
    """`keep` is empty where no pair pays. `seconds`: medians of what was raced last, side by side, float and `keep` in it.

    `versus_float`: of `keep`. `tried`: (sites as integers, seconds, SQNR) of every engine.
    `barred`: sites left in float since they lose too much.
    """

    keep: Keep
    seconds: float
    float_seconds: float
    versus_float: Ratio
    sqnr: float
    islands: tuple[Island, ...] = ()
    tried: tuple[tuple[int, float, float], ...] = ()
    barred: tuple[str, ...] = ()


def search(links: Sequence[Link], sites: Sequence[str], seeds: Sequence[Keep], bench: Bench, least: float) -> Found:
    """The placement that is fastest on the bench among all sites, the seeds, the cheapest cuts, and the best one's own parts.

    Each has an SQNR of `least` dB or more: the sites that alone lose most are kept in float until it has. A placement counts as
    faster than float, and an island as paying, by the interval of its ratio; an island that does not, goes.
    """
    quality, everything = _Quality(bench, least), frozenset(sites)
    keeps = [FLOAT, *(quality.enough(lambda bars, seed=seed: seed - bars) for seed in (everything, *seeds))]  # type: ignore[misc]
    known = _merged(bench.costs(FLOAT), bench.costs(everything))
    for _ in range(ROUNDS if known is not None else 0):
        keep = quality.enough(lambda bars, costs=known: cheapest(links, costs.barring(bars)))  # type: ignore[misc]
        if keep in keeps:
            break
        keeps.append(keep)
        known = _merged(known, bench.costs(keep)) or known
    medians, _ = bench.race(list(dict.fromkeys(keeps)), screening=True)
    tried = {keep: (len(keep), took, quality.of(keep)) for keep, took in medians.items() if keep}
    best = min(tried, key=lambda keep: (medians[keep], len(keep)), default=FLOAT)
    if not best or medians[best] > HOPELESS * medians[FLOAT]:
        one = Ratio(1.0, 1.0, 1.0)
        return Found(FLOAT, medians[FLOAT], medians[FLOAT], one, EXACT, tried=tuple(tried.values()))
    parts = {best - part: part for part in islands(links, best)[:MOST_ISLANDS]}
    medians, compare = bench.race(list(dict.fromkeys([FLOAT, best, *parts])))
    bought = [_island(part, compare(keep, best), medians[best]) for keep, part in parts.items() if keep in medians]
    idle = frozenset(site for one in bought if one.without.low <= 1 for site in one.sites)
    lean = best - idle
    if idle and lean and quality.of(lean) >= least:
        raced, against = bench.race([FLOAT, best, lean])
        if lean in raced and against(lean, best).low <= 1:
            medians, compare, best = raced, against, lean
            bought = [one for one in bought if not idle & {*one.sites}]
    tried |= {keep: (len(keep), took, quality.of(keep)) for keep, took in medians.items() if keep}
    noisy = tuple(sorted(frozenset().union(*quality.barred.values()) - best))
    return Found(
        keep=best,
        seconds=medians[best],
        float_seconds=medians[FLOAT],
        versus_float=compare(best, FLOAT),
        sqnr=quality.of(best),
        islands=tuple(bought),
        tried=tuple(tried.values()),
        barred=noisy,
    )


def _merged(older: Costs | None, newer: Costs | None) -> Costs | None:
    return None if older is None or newer is None else older.measured_after(newer)


class _Quality:
    """What placements lose, each asked about once; `barred`: the sites that one had to leave in float for it."""

    def __init__(self, bench: Bench, least: float) -> None:
        self._bench, self._least = bench, least
        self._known: dict[Keep, float] = {FLOAT: EXACT}
        self.barred: dict[Keep, Keep] = {}

    def of(self, keep: Keep) -> float:
        if keep not in self._known:
            self._known[keep] = self._bench.sqnr(keep)
        return self._known[keep]

    def _loss(self, site: str) -> float:
        """The share of the outputs' power that the site alone loses."""
        return float(10 ** (-self.of(frozenset([site])) / 10))

    def enough(self, make: Callable[[Keep], Keep]) -> Keep:
        """make(sites barred), with the noisiest barred until the rest has the SQNR. The noises of sites add up, nearly."""
        barred: set[str] = set()
        keep = make(frozenset())
        while keep and self.of(keep) < self._least:
            noisiest = sorted(keep, key=lambda site: (-self._loss(site), site))
            for count, site in enumerate(noisiest, 1):
                barred.add(site)
                if sum(map(self._loss, noisiest[count:])) <= MARGIN * 10 ** (-self._least / 10):
                    break
            keep = make(frozenset(barred))
        self.barred[keep] = frozenset(barred)
        return keep


def _island(part: Keep, without: Ratio, took: float) -> Island:
    return Island(tuple(sorted(part)), without, (without.point - 1) * took)
