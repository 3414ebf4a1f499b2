"""Which operators run as integers, decided by measured cost: cuts of least cost, raced, and quiet enough. No runtime here.

Costs are measured in a context that the placement itself changes, so a few rounds of placing (edgekd/cuts.py) and measuring
follow, and nothing counts but the race at the end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekd.cuts import FLOAT, Costs, Keep, Link, cheapest, islands, seconds
from edgekd.latency.statistics import Ratio
from edgekd.metric import EXACT

Compare = Callable[[Keep, Keep], Ratio]
"""Latency of one placement's engine over another's, raced side by side."""

ROUNDS = 3
MOST_ISLANDS = 6
MARGIN = 0.8  # of the noise allowed: what sites lose alone does not add up exactly
WORTH = 0.02  # of the time that the given placement takes: what was screened to save less is not raced again
PROMISE = 0.1  # of the time that sites take: profiles, which time each node, overrate what fewer nodes save
HOPELESS = 1.1  # times what float takes: a screened placement that is slower than that is not raced again


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
    `barred`: sites that this placement left in float since they lose too much. `versus_given`: of `keep` over the placement
    that was there before; None where there was none. `keep` is that one where no other promised to be faster.
    """

    keep: Keep
    seconds: float
    float_seconds: float
    versus_float: Ratio
    sqnr: float
    islands: tuple[Island, ...] = ()
    tried: tuple[tuple[int, float, float], ...] = ()
    barred: tuple[str, ...] = ()
    versus_given: Ratio | None = None


def settled(links: Sequence[Link], sites: Sequence[str], bench: Bench) -> bool:
    """Whether two profiles promise less than `PROMISE` of any cut over all sites in integers: a search is not worth its races."""
    everything = frozenset(sites)
    known = _merged(bench.costs(FLOAT), bench.costs(everything))
    if known is None or not everything <= known.integers.keys():
        return False
    least = seconds(links, known, cheapest(links, known))
    return (1 - PROMISE) * seconds(links, known, everything) <= least


def search(
    links: Sequence[Link],
    sites: Sequence[str],
    seeds: Sequence[Keep],
    bench: Bench,
    least: float,
    given: Keep = FLOAT,
) -> Found:
    """The placement that is fastest on the bench among all sites, the seeds, the cheapest cuts, and the best one's own parts.

    Each has an SQNR of `least` dB or more: the sites that alone lose most are kept in float until it has. A placement counts as
    faster than float, and an island as paying, by the interval of its ratio; an island that does not, goes. `given`: what there
    is already, raced beside the others and not taken apart; the search ends early where none promises to be faster.
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
    medians, compare = bench.race(list(dict.fromkeys([*keeps, given])), screening=True)
    tried = {keep: (len(keep), took, quality.of(keep)) for keep, took in medians.items() if keep not in (FLOAT, given)}
    best = min(tried, key=lambda keep: (medians[keep], len(keep)), default=FLOAT)
    if not best or medians[best] > HOPELESS * medians[FLOAT]:
        one = Ratio(1.0, 1.0, 1.0)
        return Found(FLOAT, medians[FLOAT], medians[FLOAT], one, EXACT, tried=tuple(tried.values()))
    if given and medians[best] > (1 - WORTH) * medians.get(given, math.inf):
        return Found(
            keep=given,
            seconds=medians[given],
            float_seconds=medians[FLOAT],
            versus_float=compare(given, FLOAT),
            sqnr=quality.of(best),
            tried=tuple(tried.values()),
            versus_given=compare(best, given),
        )
    chosen = best
    parts = {best - part: part for part in islands(links, best)[:MOST_ISLANDS]}
    medians, compare = bench.race(list(dict.fromkeys([FLOAT, best, given, *parts])))
    bought = [_island(part, compare(keep, best), medians[best]) for keep, part in parts.items() if keep in medians]
    idle = frozenset(site for one in bought if one.without.low <= 1 for site in one.sites)
    lean = best - idle
    if idle and lean and quality.of(lean) >= least:
        raced, against = bench.race(list(dict.fromkeys([FLOAT, best, given, lean])))
        if lean in raced and against(lean, best).low <= 1:
            medians, compare, best = raced, against, lean
            bought = [one for one in bought if not idle & {*one.sites}]
    tried |= {keep: (len(keep), took, quality.of(keep)) for keep, took in medians.items() if keep not in (FLOAT, given)}
    return Found(
        keep=best,
        seconds=medians[best],
        float_seconds=medians[FLOAT],
        versus_float=compare(best, FLOAT),
        sqnr=quality.of(best),
        islands=tuple(bought),
        tried=tuple(tried.values()),
        barred=tuple(sorted(quality.barred.get(chosen, FLOAT))),
        versus_given=compare(best, given) if given and given in medians else None,
    )


def _merged(older: Costs | None, newer: Costs | None) -> Costs | None:
    return None if older is None or newer is None else older.measured_after(newer)


class _Quality:
    """What placements lose, each asked about once; `barred`: the sites that a placement, however it was made, left out for that."""

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
        self.barred[keep] = self.barred.get(keep, frozenset(barred)) & barred
        return keep


def _island(part: Keep, without: Ratio, took: float) -> Island:
    return Island(tuple(sorted(part)), without, (without.point - 1) * took)
