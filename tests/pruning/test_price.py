"""The expected latency of an encoder under gates: what it is for a plan, in expectation, and fitted to noisy engines."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from encoders import Torch, opened, texts

from edgekd.pruning.branches import Branch, branches
from edgekd.pruning.groups import Group, find
from edgekd.pruning.price import Plan, Price, Terms, design

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def terms() -> Terms:
    """Two layers of width 8: attention of 4 heads and 256 weights, feed-forward layers of 12 channels and 192 weights."""
    network, inputs = opened(Torch()), texts().train[0][:2]
    groups = find(network, inputs).prunable
    return Terms(groups, branches(network, groups, inputs))


def plan(terms: Terms, heads: int = 4, wide: int = 12, stream: int = 8, gone: tuple[str, ...] = ()) -> Plan:
    inner = {b.name: heads if b.attention else wide for b in terms.branches}
    return Plan({**inner, **{g.name: stream for g in terms.streams}}, frozenset(gone))


def test_the_terms_of_a_plan_by_hand(terms: Terms) -> None:
    """1, the stream's share, then for each kind: branches there, their widths' shares, their weights' shares."""
    assert len(terms.streams) == 1 and [len(alike) for alike in terms.kinds.values()] == [2, 2]
    first = next(b.name for b in terms.branches if not b.attention)
    found = terms.of(plan(terms, heads=2, wide=6, stream=4, gone=(first,)))
    attention, feed = (2, 1.0, 0.5), (1, 0.5, 0.25)  # half of the heads, and half of the stream on their other side
    expected = [1, 0.5, *(attention if next(iter(terms.kinds))[0] else (*feed, *attention)), *feed]
    assert found.tolist() == pytest.approx(expected[:8])


def test_an_expectation_is_the_mean_over_all_plans(terms: Terms) -> None:
    """Every state of three gates, by its chance: a branch, a head of another one, a channel of the stream."""
    gone, whole, stream = terms.branches[0], terms.branches[1].group, terms.streams[0]
    chances = {gone.name: 0.3, whole.name: 0.6, stream.name: 0.9}

    def row(there: dict[str, float]) -> torch.Tensor:
        def channels(group: Group) -> torch.Tensor:
            found = torch.ones(group.channels)
            if group in (whole, stream):
                found[0] = there[group.name]
            return found

        def branch(one: Branch) -> torch.Tensor:
            return torch.tensor(there[gone.name] if one is gone else 1.0)

        return terms.row(channels, branch)

    mean = torch.zeros(8)
    for states in itertools.product((0.0, 1.0), repeat=3):
        there = dict(zip(chances, states, strict=True))
        chance = math.prod(chances[name] if on else 1 - chances[name] for name, on in there.items())
        mean += chance * row(there)
    assert torch.allclose(row(chances), mean, atol=1e-5)


def test_noisy_engines_are_fitted_and_what_is_told_of_the_error_is_true(terms: Terms) -> None:
    """A device of the model's form with 3% of noise; new plans are predicted about as well as those left out of the fit."""
    steps = {group.name: 1 for group in terms.groups}
    truth = torch.tensor([20.0, 5.0, 8.0, 4.0, 10.0, 3.0, 2.0, 12.0])
    plans, noise = design(terms, steps), np.random.default_rng(1)
    assert plans[0] == plan(terms) and plans[-1].gone == {b.name for b in terms.branches}
    assert set(plans[-1].widths.values()) == {1} and 15 <= len(plans) == len({repr(one) for one in plans}) <= 24
    taken = [1e-6 * float(truth @ terms.of(one)) * math.exp(noise.normal(0, 0.03)) for one in plans]
    price = Price(terms, plans, {"a": taken, "b": [2 * one for one in taken]})
    assert price.whole == taken[0] == pytest.approx(price.of(plans[0]))
    assert 0.005 < price.error["a"][0] < 0.06 and price.error["a"][1] < 0.2
    new = [plan(terms, 3, 7, 6), plan(terms, 1, 12, 3, (terms.branches[2].name,)), plan(terms, 4, 2, 8)]
    for one in new:
        assert price.of(one) == pytest.approx(1e-6 * float(truth @ terms.of(one)), rel=0.12)


def test_an_engine_that_is_missing_is_left_out_of_the_fit(terms: Terms) -> None:
    plans = design(terms, {group.name: 1 for group in terms.groups})
    taken = [1e-5 * float(terms.of(one).sum()) for one in plans]
    taken[3] = math.inf
    price = Price(terms, plans, {"a": taken})
    assert price.of(plans[3]) == pytest.approx(1e-5 * float(terms.of(plans[3]).sum()), rel=1e-3)
