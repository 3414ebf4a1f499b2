"""Widths under a latency: against brute force, and with devices that do not do what the table says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from latency.test_predictor import CHAIN, every, tiles

from edgekd.latency.design import Space, design
from edgekd.latency.predictor import Predictor, fit
from edgekd.pruning.allocation import UnreachableError, allocate, meet, values_of

PLANS = design(CHAIN)
TABLE = fit(CHAIN, PLANS, [tiles(plan) for plan in PLANS])


def scores(seed: int) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    return {group: random.exponential(size=widths[-1]).tolist() for group, widths in CHAIN.widths.items()}


def kept(of: Mapping[str, list[float]], plan: Mapping[str, int]) -> float:
    return sum(sum(sorted(values, reverse=True)[: plan[group]]) for group, values in of.items())


@pytest.mark.parametrize("share", [0.7, 0.8, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_the_best_of_all_that_keep_the_latency(seed: int, share: float) -> None:
    given, budget = scores(seed), share * tiles(CHAIN.whole)
    best = max((plan for plan in every(CHAIN) if tiles(plan) <= budget), key=lambda plan: kept(given, plan))
    found = allocate(TABLE, values_of(CHAIN, given), budget)
    assert tiles(found) <= budget * (1 + 1e-6)
    assert kept(given, found) == pytest.approx(kept(given, best), rel=1e-6)


def test_a_group_whose_narrowing_buys_no_time_stays_whole() -> None:
    """Of b, 24 channels take as long as 32; c's channels are worth nothing and cost nothing."""
    given = {"a": [1.0] * 32, "b": [1e-9] * 32, "c": [0.0] * 16}
    space = Space(CHAIN.widths, (("a", "b"),))
    plans = design(space)

    def seconds(plan: Mapping[str, int]) -> float:
        return 1e-4 + 1e-6 * -(-plan["a"] // 16) * -(-plan["b"] // 16)

    found = allocate(fit(space, plans, [seconds(plan) for plan in plans]), values_of(space, given), 1.021e-4)
    assert found == {"a": 32, "b": 16, "c": 16}


def test_a_group_that_has_no_score_is_not_touched() -> None:
    values = values_of(CHAIN, {"a": [1.0] * 32, "c": [1.0] * 16})
    assert allocate(TABLE, values, 0.85 * tiles(CHAIN.whole))["b"] == 32
    with pytest.raises(UnreachableError) as caught:
        allocate(TABLE, values, 0.8 * tiles(CHAIN.whole))
    assert caught.value.widths == {"a": 8, "b": 32, "c": 8}


def test_the_least_latency_is_said_where_the_budget_is_below_it() -> None:
    with pytest.raises(UnreachableError) as caught:
        meet([TABLE], values_of(CHAIN, scores(0)), 8e-6, tiles)
    assert caught.value.seconds == pytest.approx(9e-6, rel=1e-6)
    assert caught.value.widths == {"a": 8, "b": 8, "c": 8}


def test_a_true_table_needs_one_plan() -> None:
    budget = 0.8 * tiles(CHAIN.whole)
    best, tried = meet([TABLE], values_of(CHAIN, scores(1)), budget, tiles)
    assert tried == [best]
    assert best.predicted == pytest.approx(best.measured, rel=1e-6)
    assert best.measured <= budget


def test_a_table_that_is_too_hopeful_is_corrected() -> None:
    """The device throttles by 14%: the first plan measures above the budget, the next one keeps it."""
    budget = 0.85 * tiles(CHAIN.whole)
    best, tried = meet([TABLE], values_of(CHAIN, scores(2)), budget, lambda plan: 1.14 * tiles(plan))
    assert 1 < len(tried) <= 4
    assert tried[0].measured > 1.05 * budget >= best.measured
    assert best.retained < tried[0].retained


def test_a_table_that_is_too_cautious_gives_channels_back() -> None:
    budget = 0.75 * tiles(CHAIN.whole)
    best, tried = meet([TABLE], values_of(CHAIN, scores(3)), budget, lambda plan: 0.9 * tiles(plan))
    assert best.retained > tried[0].retained
    assert best.measured <= 1.05 * budget


def test_a_device_that_never_keeps_it_says_the_least_that_was_measured() -> None:
    with pytest.raises(UnreachableError) as caught:
        meet([TABLE], values_of(CHAIN, scores(0)), 0.9 * tiles(CHAIN.whole), lambda plan: 2 * tiles(plan))
    assert caught.value.seconds == pytest.approx(2 * 9e-6)


def test_the_fastest_of_several_engines_counts() -> None:
    """One engine is slow to start and scales well, the other the other way round: the plan is for the one that retains more."""

    def flat(plan: Mapping[str, int]) -> float:
        return 8e-6 + 0.1 * (tiles(plan) - 5e-6)

    other: Predictor = fit(CHAIN, PLANS, [flat(plan) for plan in PLANS])
    values = values_of(CHAIN, scores(0))
    best, _ = meet([TABLE, other], values, 9e-6, lambda plan: min(tiles(plan), flat(plan)))
    assert best.widths == CHAIN.whole
    assert best.measured == pytest.approx(flat(CHAIN.whole))


def test_every_way_to_choose_is_solved_alike_for_a_star() -> None:
    """Three groups that meet in pairs, as around a residual sum."""
    space = Space(CHAIN.widths, (("a", "b"), ("b", "c"), ("a", "c")))

    def cost(plan: Mapping[str, int]) -> float:
        return 1e-5 + 1e-8 * sum(plan[x] * plan[y] for x, y in itertools.combinations("abc", 2))

    plans = design(space)
    table, given = fit(space, plans, [cost(plan) for plan in plans]), scores(7)
    budget = 0.6 * cost(space.whole)
    best = max((plan for plan in every(space) if cost(plan) <= budget), key=lambda plan: kept(given, plan))
    assert allocate(table, values_of(space, given), budget) == best
