"""A latency that is known, as a function of the widths: what the design measures, what the model predicts of the rest."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from edgekd.errors import EdgekdError, UserError
from edgekd.latency.design import Space, allowed, columns, design, matrix
from edgekd.latency.predictor import fit

CHAIN = Space({"a": (8, 16, 24, 32), "b": (8, 16, 24, 32), "c": (8, 16)}, (("a", "b"), ("b", "c")))


def tiles(plan: Mapping[str, int]) -> float:
    """Seconds: 5 µs, and 1 µs for each tile of 16 × 16 channels of the layers a → b and b → c, 2 µs of the one behind c."""
    a, b, c = (-(-plan[group] // 16) for group in "abc")
    return 5e-6 + 1e-6 * (a * b + b * c) + 2e-6 * c


def every(space: Space) -> list[dict[str, int]]:
    return [dict(zip(space.widths, drawn, strict=True)) for drawn in itertools.product(*space.widths.values())]


def test_the_design_begins_whole_and_tells_every_term_of_the_model() -> None:
    plans = design(CHAIN)
    assert plans[0] == {"a": 32, "b": 32, "c": 16}
    assert {"a": 8, "b": 8, "c": 8} in plans
    assert {"a": 16, "b": 32, "c": 16} in plans
    assert len({tuple(plan.items()) for plan in plans}) == len(plans)
    assert np.linalg.matrix_rank(matrix(CHAIN, plans)) == len(columns(CHAIN)) == 1 + 3 + 3 + 1 + 9 + 3
    assert design(CHAIN, seed=0) == plans != design(CHAIN, seed=1)


def test_a_small_space_is_measured_once_each() -> None:
    space = Space({"a": (8, 16), "b": (8, 16), "c": (4,)}, (("a", "b"),))
    assert sorted(map(str, design(space))) == sorted(map(str, every(space)))


def test_no_group_wider_than_the_multiple_is_an_error() -> None:
    with pytest.raises(UserError, match="none is wider than one channel multiple") as caught:
        design(Space({"a": allowed(8, 8)}, ()))
    assert "channel_multiple" in caught.value.hint


def test_steps_are_predicted_exactly_where_a_layers_cost_is_of_two_widths() -> None:
    plans = design(CHAIN)
    assert len(plans) < len(every(CHAIN))
    found = fit(CHAIN, plans, [tiles(plan) for plan in plans])
    for plan in every(CHAIN):
        assert found.predicted(plan) == pytest.approx(tiles(plan), rel=1e-6)
    assert found.predicted({"a": 24, "b": 32, "c": 16}) == pytest.approx(
        found.predicted({"a": 32, "b": 32, "c": 16}), rel=1e-6
    )


def test_few_noisy_measurements_of_many_groups_predict_new_plans() -> None:
    """8 groups in a chain, far more terms than measurements, 1% of noise: work that is about the product of the widths."""
    names = [f"g{i}" for i in range(8)]
    space = Space(dict.fromkeys(names, (8, 16, 24, 32, 40)), tuple(itertools.pairwise(names)))

    def truth(plan: Mapping[str, int]) -> float:
        work = sum(plan[a] * plan[b] * (1 + i % 3) for i, (a, b) in enumerate(space.meets))
        return 100e-6 + 1e-8 * work + sum(4e-7 * -(-plan[name] // 16) for name in names)

    random = np.random.default_rng(0)
    plans = design(space)
    assert len(plans) < len(columns(space)) * 0.6
    found = fit(space, plans, [truth(plan) * float(np.exp(random.normal(0, 0.01))) for plan in plans])
    new = [{name: int(random.choice(space.widths[name])) for name in names} for _ in range(200)]
    errors = np.abs([found.predicted(plan) / truth(plan) - 1 for plan in new])
    assert np.median(errors) < 0.02 and np.quantile(errors, 0.95) < 0.05
    assert found.error(0.5) == pytest.approx(np.median(errors), abs=0.015)


def test_no_narrower_width_is_predicted_to_be_slower() -> None:
    random = np.random.default_rng(1)
    plans = design(CHAIN)
    found = fit(CHAIN, plans, [tiles(plan) * float(np.exp(random.normal(0, 0.05))) for plan in plans])
    for plan in every(CHAIN):
        for group, widths in CHAIN.widths.items():
            narrower = {**plan, group: widths[max(widths.index(plan[group]) - 1, 0)]}
            assert found.predicted(narrower) <= found.predicted(plan) * (1 + 1e-12)


def test_a_latency_of_nothing_and_a_width_that_is_not_tabled_are_errors() -> None:
    plans = design(CHAIN)
    with pytest.raises(EdgekdError, match="not above zero"):
        fit(CHAIN, plans, [0.0] * len(plans))
    found = fit(CHAIN, plans, [tiles(plan) for plan in plans])
    with pytest.raises(EdgekdError, match='no width 9 of "a"'):
        found.predicted({"a": 9, "b": 8, "c": 8})


def test_a_group_of_one_width_is_part_of_the_model_and_costs_nothing_to_tell() -> None:
    space = Space({"a": (8,), "b": (8, 16)}, (("a", "b"),))
    found = fit(space, design(space), [2e-5, 1e-5])
    assert [found.predicted(plan) for plan in design(space)] == pytest.approx([2e-5, 1e-5], rel=1e-6)
