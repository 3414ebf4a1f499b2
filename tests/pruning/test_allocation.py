"""Widths under a latency: against brute force, and with devices that do not do what the table says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from latency.test_predictor import CHAIN, every, tiles

from edgekd.latency.design import Space, design
from edgekd.latency.predictor import Predictor, fit
from edgekd.pruning.allocation import (
    Attempt,
    Choose,
    Limit,
    UnreachableError,
    Values,
    allocate,
    by_macs,
    meet,
    uniform,
    values_of,
)

PLANS = design(CHAIN)
TABLE = fit(CHAIN, PLANS, [tiles(plan) for plan in PLANS])


def scores(seed: int) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    return {group: random.exponential(size=widths[-1]).tolist() for group, widths in CHAIN.widths.items()}


def kept(of: Mapping[str, list[float]], plan: Mapping[str, int]) -> float:
    return sum(sum(sorted(values, reverse=True)[: plan[group]]) for group, values in of.items())


def met(
    values: Values, budget: float, seconds: Callable[[Mapping[str, int]], float], choose: Choose = allocate
) -> tuple[Attempt, list[Attempt]]:
    limit = Limit("latency", TABLE, budget)
    return meet([[limit]], values, lambda plan: [{"latency": seconds(plan)}], choose)


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_the_best_of_all_that_keep_the_latency(seed: int, share: float) -> None:
    given, budget = scores(seed), share * tiles(CHAIN.whole)
    best = max((plan for plan in every(CHAIN) if tiles(plan) <= budget), key=lambda plan: kept(given, plan))
    found = allocate([Limit("latency", TABLE, budget)], values_of(CHAIN, given))
    assert tiles(found) <= budget * (1 + 1e-6)
    assert kept(given, found) == pytest.approx(kept(given, best), rel=1e-6)


def test_a_group_whose_narrowing_buys_no_time_stays_whole() -> None:
    """Of b, 24 channels take as long as 32; c's channels are worth nothing and cost nothing."""
    given = {"a": [1.0] * 32, "b": [1e-9] * 32, "c": [0.0] * 16}
    space = Space(CHAIN.widths, (("a", "b"),))
    plans = design(space)

    def seconds(plan: Mapping[str, int]) -> float:
        return 1e-4 + 1e-6 * -(-plan["a"] // 16) * -(-plan["b"] // 16)

    table = fit(space, plans, [seconds(plan) for plan in plans])
    found = allocate([Limit("latency", table, 1.021e-4)], values_of(space, given))
    assert found == {"a": 32, "b": 16, "c": 16}


def test_a_group_that_has_no_score_is_not_touched() -> None:
    values = values_of(CHAIN, {"a": [1.0] * 32, "c": [1.0] * 16})
    assert allocate([Limit("latency", TABLE, 0.85 * tiles(CHAIN.whole))], values)["b"] == 32
    with pytest.raises(UnreachableError) as caught:
        allocate([Limit("latency", TABLE, 0.8 * tiles(CHAIN.whole))], values)
    assert caught.value.widths == {"a": 8, "b": 32, "c": 8}


def test_the_least_latency_is_said_where_the_budget_is_below_it() -> None:
    with pytest.raises(UnreachableError) as caught:
        met(values_of(CHAIN, scores(0)), 8e-6, tiles)
    assert caught.value.least == pytest.approx(9e-6, rel=1e-6)
    assert caught.value.widths == {"a": 8, "b": 8, "c": 8}


def test_a_true_table_needs_one_plan() -> None:
    budget = 0.8 * tiles(CHAIN.whole)
    best, tried = met(values_of(CHAIN, scores(1)), budget, tiles)
    assert tried == [best]
    assert best.predicted == pytest.approx(best.measured, rel=1e-6)
    assert best.measured["latency"] <= budget


def test_a_table_that_is_too_hopeful_is_corrected() -> None:
    """The device throttles by 14%: the first plan measures above the budget, the next one keeps it."""
    budget = 0.85 * tiles(CHAIN.whole)
    best, tried = met(values_of(CHAIN, scores(2)), budget, lambda plan: 1.14 * tiles(plan))
    assert 1 < len(tried) <= 4
    assert tried[0].measured["latency"] > 1.05 * budget >= best.measured["latency"]
    assert best.retained < tried[0].retained


def test_a_table_that_is_too_cautious_gives_channels_back() -> None:
    budget = 0.75 * tiles(CHAIN.whole)
    best, tried = met(values_of(CHAIN, scores(3)), budget, lambda plan: 0.9 * tiles(plan))
    assert best.retained > tried[0].retained
    assert best.measured["latency"] <= 1.05 * budget


def test_a_device_that_never_keeps_it_says_the_least_that_was_measured() -> None:
    with pytest.raises(UnreachableError) as caught:
        met(values_of(CHAIN, scores(0)), 0.9 * tiles(CHAIN.whole), lambda plan: 2 * tiles(plan))
    assert caught.value.least == pytest.approx(2 * 9e-6)


def test_the_fastest_of_several_engines_counts() -> None:
    """One engine is slow to start and scales well, the other the other way round: the plan is for the one that retains more."""

    def flat(plan: Mapping[str, int]) -> float:
        return 8e-6 + 0.1 * (tiles(plan) - 5e-6)

    other: Predictor = fit(CHAIN, PLANS, [flat(plan) for plan in PLANS])
    values = values_of(CHAIN, scores(0))
    limits = [[Limit("latency", TABLE, 9e-6)], [Limit("latency", other, 9e-6)]]
    best, _ = meet(limits, values, lambda plan: [{"latency": tiles(plan)}, {"latency": flat(plan)}])
    assert best.widths == CHAIN.whole
    assert best.kind == 1 and best.measured["latency"] == pytest.approx(flat(CHAIN.whole))


def test_every_way_to_choose_is_solved_alike_for_a_star() -> None:
    """Three groups that meet in pairs, as around a residual sum."""
    space = Space(CHAIN.widths, (("a", "b"), ("b", "c"), ("a", "c")))

    def cost(plan: Mapping[str, int]) -> float:
        return 1e-5 + 1e-8 * sum(plan[x] * plan[y] for x, y in itertools.combinations("abc", 2))

    plans = design(space)
    table, given = fit(space, plans, [cost(plan) for plan in plans]), scores(7)
    budget = 0.6 * cost(space.whole)
    best = max((plan for plan in every(space) if cost(plan) <= budget), key=lambda plan: kept(given, plan))
    assert allocate([Limit("latency", table, budget)], values_of(space, given)) == best


def held(plan: Mapping[str, int]) -> float:
    """Bytes: 1,000, and float32 weights of 3 × 3 kernels of the layers a → b and b → c, with a bias each."""
    return 1000 + 36 * (plan["a"] * plan["b"] + plan["b"] * plan["c"]) + 4 * (plan["b"] + plan["c"])


SIZES = fit(CHAIN, PLANS, [held(plan) for plan in PLANS])


@pytest.mark.parametrize(("latency", "size"), [(0.8, 0.9), (0.99, 0.5), (0.85, 0.6), (0.7, 0.45)])
def test_the_plan_is_the_best_of_all_that_keep_latency_and_size(latency: float, size: float) -> None:
    given = scores(5)
    most = latency * tiles(CHAIN.whole), size * held(CHAIN.whole)
    kept_both = [plan for plan in every(CHAIN) if tiles(plan) <= most[0] and held(plan) <= most[1]]
    best = max(kept_both, key=lambda plan: kept(given, plan))
    found = allocate([Limit("latency", TABLE, most[0]), Limit("size", SIZES, most[1])], values_of(CHAIN, given))
    assert tiles(found) <= most[0] * (1 + 1e-6) and held(found) <= most[1] * (1 + 1e-6)
    assert kept(given, found) == pytest.approx(kept(given, best), rel=1e-6)


def test_bytes_are_kept_exactly_though_the_table_is_2_percent_off() -> None:
    most = 0.7 * held(CHAIN.whole)
    limits, values = [Limit("size", SIZES, most)], values_of(CHAIN, scores(3))
    tight = held(allocate(limits, values)) / most
    best, tried = meet([limits], values, lambda plan: [{"size": 1.02 * held(plan) / tight}])
    assert tried[0].measured["size"] == pytest.approx(1.02 * most), "a latency that is so little too high would pass"
    assert best.measured["size"] <= most


def test_one_engine_has_to_keep_all_limits() -> None:
    """The second kind is twice as fast and three times as large: it keeps both limits only where it is narrower."""
    budget = {"latency": 10.5e-6, "size": 0.6 * held(CHAIN.whole)}
    halves, triples = (
        fit(CHAIN, PLANS, [share * of(plan) for plan in PLANS]) for share, of in ((0.5, tiles), (3, held))
    )
    kinds = [[Limit(name, table, budget[name]) for name, table in zip(budget, pair, strict=True)]
             for pair in ((TABLE, SIZES), (halves, triples))]  # fmt: skip
    values = values_of(CHAIN, scores(1))
    best, _ = meet(
        kinds,
        values,
        lambda plan: [
            {"latency": tiles(plan), "size": held(plan)},
            {"latency": 0.5 * tiles(plan), "size": 3 * held(plan)},
        ],
    )
    assert best.kind == 0 and tiles(best.widths) <= 10.5e-6 and held(best.widths) <= budget["size"]
    assert best.predicted == pytest.approx(best.measured, rel=1e-6)


def test_the_limit_that_cannot_be_kept_is_named_with_its_least() -> None:
    """8 channels everywhere: 1,000 + 36 · (64 + 64) + 4 · 16 = 5,672 bytes."""
    limits = [Limit("latency", TABLE, tiles(CHAIN.whole)), Limit("size", SIZES, 5000)]
    with pytest.raises(UnreachableError) as caught:
        allocate(limits, values_of(CHAIN, scores(0)))
    assert caught.value.quantity == "size" and caught.value.least == pytest.approx(5672, rel=1e-6)


def test_the_same_share_of_every_group() -> None:
    """Time steps at 16 channels. Up to 62.5%, 20 of 32 channels are nearer to 16 than to 24, or as near, and 10 of 16 nearer to 8."""
    best, _ = met(values_of(CHAIN, scores(0)), 10e-6, tiles, uniform)
    assert best.widths == {"a": 16, "b": 16, "c": 8}
    values = {group: of for group, of in values_of(CHAIN, scores(0)).items() if group != "c"}
    assert met(values, 12e-6, tiles, uniform)[0].widths["c"] == 16, "what has no score is not touched"


def test_multiply_accumulates_choose_what_they_say_is_cheap_and_keep_the_latency() -> None:
    """By them the layer a → b is all that costs, whichever of the two is narrow; the device takes longer where b is wide.

    By hand: b is worth twice as much, so they would keep 16 · 32 before 32 · 16, which takes 11 µs; so they come down to 8 · 16.
    """

    def macs(plan: Mapping[str, int]) -> float:
        return 1e6 * plan["a"] * plan["b"] + 1.0 * plan["b"] * plan["c"]

    given, budget = {"a": [1.0] * 32, "b": [2.0] * 32, "c": [1.0] * 16}, 10.5e-6
    values, choose = values_of(CHAIN, given), by_macs(fit(CHAIN, PLANS, [macs(plan) for plan in PLANS]))
    by_them, _ = met(values, budget, tiles, choose)
    assert by_them.widths == {"a": 8, "b": 16, "c": 16} and by_them.measured["latency"] <= budget
    assert met(values, budget, tiles)[0].widths == {"a": 32, "b": 16, "c": 16}
