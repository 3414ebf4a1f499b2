"""Placements by cost: cuts against all placements counted out, islands, and a search on a bench whose costs are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pytest

from edgekd.cuts import FLOAT, Costs, Keep, Link, cheapest, islands, seconds
from edgekd.latency.statistics import Ratio
from edgekd.placement import Bench, Compare, search, settled

# in → a → b → c → out, one tensor after another
CHAIN = (Link("x", None, ("a",)), Link("y", "a", ("b",)), Link("z", "b", ("c",)), Link("out", "c", (), leaves=True))
FLOATS = {"a": 10e-6, "b": 1e-6, "c": 10e-6}
INTEGERS = {"a": 4e-6, "b": 1.5e-6, "c": 4e-6}


def chain(convert: float) -> Costs:
    each = {link.tensor: convert for link in CHAIN}
    return Costs(FLOATS, INTEGERS, each, each)


def test_a_site_that_is_slower_in_integers_stays_so_where_leaving_costs_more() -> None:
    dear, cheap = chain(1e-6), chain(0.1e-6)
    assert cheapest(CHAIN, dear) == {"a", "b", "c"}
    assert math.isclose(seconds(CHAIN, dear, frozenset("abc")), (4 + 1.5 + 4 + 2) * 1e-6)  # one pair in all
    assert cheapest(CHAIN, cheap) == {"a", "c"}
    assert math.isclose(seconds(CHAIN, cheap, frozenset("ac")), (4 + 1 + 4 + 0.4) * 1e-6)  # and a second one around b
    assert cheapest(CHAIN, chain(10e-6)) == FLOAT
    assert cheapest(CHAIN, dear.barring("b")) == {"a", "c"}  # 9 + 4 < 21, in millionths


def test_a_tensor_that_many_read_is_converted_once_and_a_free_one_never() -> None:
    readers = ("a", "b", "c")
    links = [Link("x", None, readers), *(Link(f"out {r}", r, (), leaves=True, free=True) for r in readers)]
    costs = Costs(
        dict.fromkeys(readers, 3e-6), dict.fromkeys(readers, 2e-6), {"x": 2.5e-6}, {f"out {r}": 9e-6 for r in readers}
    )
    assert math.isclose(seconds(links, costs, frozenset(readers)), 8.5e-6)
    assert cheapest(links, costs) == {*readers}  # each alone would pay 2.5 for a gain of 1
    assert cheapest(links, costs.barring("c")) == FLOAT


@pytest.mark.parametrize("seed", range(12))
def test_a_cut_is_the_best_of_all_placements(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"s{i}" for i in range(6)]
    links = [Link("x", None, tuple(random.choice(names, 2, replace=False)))]
    for index, name in enumerate(names):
        later = names[index + 1 :]
        readers = (
            tuple(random.choice(later, min(len(later), int(random.integers(0, 4))), replace=False)) if later else ()
        )
        links.append(
            Link(
                f"t{index}",
                name,
                readers,
                leaves=bool(random.random() < 0.3) or not readers,
                free=bool(random.random() < 0.2),
            )
        )
    tables = [dict(zip(names, random.uniform(1e-6, 9e-6, 6), strict=True)) for _ in range(2)]
    conversions = [{link.tensor: random.uniform(0, 4e-6) for link in links} for _ in range(2)]
    costs = Costs(*tables, *conversions)
    every = [frozenset(c) for n in range(7) for c in combinations(names, n)]
    best = min(seconds(links, costs, keep) for keep in every)
    assert math.isclose(seconds(links, costs, cheapest(links, costs)), best, rel_tol=1e-6)


def test_islands_hang_together_by_what_they_pass_or_share() -> None:
    links = [*CHAIN, Link("w", None, ("d", "e")), Link("v", "d", ("c",))]
    assert islands(links, frozenset("ac")) == [{"a"}, {"c"}]
    assert islands(links, frozenset("abde")) == [{"a", "b"}, {"d", "e"}]
    assert islands(links, frozenset("cde")) == [{"c", "d", "e"}]
    assert islands(links, FLOAT) == []


class Simulated(Bench):
    """A device that costs what it says, plus `extra` for each placement; each site alone loses `noise` of the signal's power."""

    def __init__(
        self,
        links: Sequence[Link],
        costs: Costs,
        noise: Mapping[str, float],
        extra: Mapping[Keep, float],
        profiler: bool = True,
    ) -> None:
        self.links, self.known, self.noise, self.extra, self.profiler = links, costs, noise, extra, profiler
        self.raced: list[Keep] = []

    def took(self, keep: Keep) -> float:
        return 5e-6 + seconds(self.links, self.known, keep) + self.extra.get(keep, 0.0)

    def costs(self, keep: Keep) -> Costs | None:
        floats = {k: v for k, v in self.known.floats.items() if k not in keep}
        integers = {k: v for k, v in self.known.integers.items() if k in keep}
        return Costs(floats, integers, self.known.quantize, self.known.dequantize) if self.profiler else None

    def race(self, keeps: Sequence[Keep], screening: bool = False) -> tuple[Mapping[Keep, float], Compare]:
        assert keeps[0] == FLOAT
        self.raced += keeps
        found = {keep: self.took(keep) for keep in keeps}

        def compare(a: Keep, b: Keep) -> Ratio:
            point = found[a] / found[b]
            return Ratio(point, point * 0.99, point * 1.01)

        return found, compare

    def sqnr(self, keep: Keep) -> float:
        lost = sum(self.noise.get(site, 1e-4) for site in keep)
        return -10 * math.log10(lost)


def test_a_search_finds_the_cheapest_and_says_what_each_island_bought() -> None:
    bench = Simulated(CHAIN, chain(0.1e-6), {}, {})
    found = search(CHAIN, list("abc"), [frozenset("ab")], bench, 20.0)
    assert found.keep == {"a", "c"}
    assert math.isclose(found.seconds, 14.4e-6 - 2e-6 + 2e-6 - 0.0, rel_tol=0.2)
    assert [one.sites for one in found.islands] == [("a",), ("c",)]
    for one in found.islands:  # 6 gained less 0.2 for its conversions
        assert math.isclose(one.bought, 5.8e-6, rel_tol=1e-6)
    assert found.versus_float.high < 1
    assert found.sqnr > 20


def test_a_search_without_a_profiler_takes_islands_out_that_do_not_pay() -> None:
    slow = Costs(FLOATS, {**INTEGERS, "c": 10.5e-6}, *[{link.tensor: 0.1e-6 for link in CHAIN}] * 2)
    bench = Simulated(CHAIN, slow, {}, {}, profiler=False)
    found = search(CHAIN, list("abc"), [frozenset("ac")], bench, 20.0)
    assert found.keep == {"a"}
    assert found.islands[0].sites == ("a",)


def test_where_nothing_pays_float_stays() -> None:
    slow = Costs(FLOATS, {name: cost * 4 for name, cost in FLOATS.items()})
    found = search(CHAIN, list("abc"), [frozenset("ac")], Simulated(CHAIN, slow, {}, {}), 20.0)
    assert (found.keep, found.islands, found.versus_float.point) == (FLOAT, (), 1.0)
    assert found.seconds == found.float_seconds


def test_what_loses_most_stays_in_float_until_the_rest_is_quiet_enough() -> None:
    noise = {"a": 0.2, "b": 1e-4, "c": 2e-3}
    found = search(CHAIN, list("abc"), [], Simulated(CHAIN, chain(0.1e-6), noise, {}), 20.0)
    assert found.keep == {"c"}
    assert found.barred == ("a",)
    assert found.sqnr >= 20
    assert (
        search(CHAIN, list("abc"), [], Simulated(CHAIN, chain(0.1e-6), dict.fromkeys("abc", 0.5), {}), 20.0).keep
        == FLOAT
    )


def test_a_site_that_cannot_run_costs_no_other() -> None:
    """Its engine alone fails: it loses everything, and it is the only one to stay in float for that."""
    found = search(CHAIN, list("abc"), [], Simulated(CHAIN, chain(1e-6), {"b": math.inf}, {}), 20.0)
    assert (found.keep, found.barred) == ({"a", "c"}, ("b",))


def test_a_site_that_is_in_float_for_what_it_costs_is_not_so_for_its_noise() -> None:
    found = search(CHAIN, list("abc"), [], Simulated(CHAIN, chain(0.1e-6), {"b": 0.5}, {}), 20.0)
    assert (found.keep, found.barred) == ({"a", "c"}, ())


def test_the_race_has_the_last_word_over_the_sum() -> None:
    """A placement whose parts are cheap, and whose whole is not: as where a fusion was lost that no profile shows."""
    bench = Simulated(CHAIN, chain(0.1e-6), {}, {frozenset("ac"): 9e-6})
    found = search(CHAIN, list("abc"), [], bench, 20.0)
    assert frozenset("ac") in bench.raced
    assert found.keep == {"a", "b", "c"}


class Brought(Simulated):
    """A device that also has the engine of what was there already, which takes what all sites in integers do, plus `slower`."""

    def __init__(self, costs: Costs, slower: float = 0.0, profiler: bool = True) -> None:
        super().__init__(CHAIN, costs, {}, {}, profiler)
        self.slower = slower

    def took(self, keep: Keep) -> float:
        return super().took(frozenset("abc") if keep == THERE else keep) + (self.slower if keep == THERE else 0.0)


THERE = frozenset({"what came"})
DEAR = Costs(FLOATS, {**INTEGERS, "b": 4e-6}, *[{link.tensor: 0.1e-6 for link in CHAIN}] * 2)
"""5 and 12.2 millionths of a second with all in integers, 5 and 9.4 without b."""


def test_what_is_there_already_is_beaten_in_a_race_or_stays() -> None:
    found = search(CHAIN, list("abc"), [], Brought(DEAR), -math.inf, THERE)
    assert found.keep == {"a", "c"}
    assert found.versus_given is not None and found.versus_given.high < 1
    assert found.versus_given.point == pytest.approx((5 + 9.4) / (5 + 12.2))
    assert sorted(count for count, _, _ in found.tried) == [1, 1, 2, 3]  # the two islands alone, both, all sites
    bench = Brought(chain(1e-6))
    found = search(CHAIN, list("abc"), [], bench, -math.inf, THERE)
    assert (found.keep, found.islands) == (THERE, ())
    assert len(bench.raced) == 3  # float, all sites and what came: screened, and not raced again
    assert found.versus_float.high < 1
    assert search(CHAIN, list("abc"), [], Brought(chain(1e-6), slower=2e-6), -math.inf, THERE).keep == {"a", "b", "c"}


def test_where_profiles_promise_little_nothing_is_raced() -> None:
    """All in integers 9.7 millionths, 3% more than the best cut; of `DEAR` 30% more."""
    assert settled(CHAIN, list("abc"), Brought(chain(0.1e-6)))
    assert not settled(CHAIN, list("abc"), Brought(DEAR))
    assert not settled(CHAIN, list("abc"), Brought(chain(0.1e-6), profiler=False))
