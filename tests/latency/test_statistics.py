"""Medians, tails, intervals and ratios, against numbers worked out by hand, by SciPy, and on simulated data."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgekd.latency import statistics as S


def test_how_many_samples_a_tail_needs() -> None:
    """MLPerf's 64 and 662, and that they are least: binomial tails by SciPy."""
    assert (S.least_samples(0.90), S.least_samples(0.99)) == (64, 662)
    for share, n in ((0.90, 64), (0.99, 662)):
        assert stats.binom.cdf(1, n, 1 - share) <= 0.01 < stats.binom.cdf(1, n - 1, 1 - share)


def test_percentiles_by_hand() -> None:
    values = np.arange(1.0, 101.0)
    assert S.median(values) == 50.5
    assert S.p90(values) == 90.0
    assert S.p99(values) is None
    assert S.p90(values[:63]) is None
    assert S.p90(values[:64]) == 58.0  # the 58th of 64: 57/64 = 0.891 are fewer than 0.9
    thousand = np.arange(1000, 0, -1.0)
    assert (S.p90(thousand), S.p99(thousand)) == (900.0, 990.0)
    assert S.p99(thousand[:661]) is None
    assert S.p99(thousand[:662]) is not None


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 200])
def test_student_t_equals_scipys(freedom: int) -> None:
    for probability in (0.6, 0.9, 0.975, 0.995):
        assert S.student_t(freedom, probability) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


def test_an_interval_over_processes_by_hand() -> None:
    """Three processes without noise of their own at log 1, log 1.01, log 1.02: mean ± 4.30265 s / sqrt(3)."""
    logs = np.log([1.0, 1.01, 1.02])
    samples = np.exp(logs)[:, None, None] * np.ones((3, 10, 4))
    found = S.ratio(samples, np.ones((3, 10, 4)))
    half = 4.30265 * math.sqrt(sum((x - logs.mean()) ** 2 for x in logs) / 2) / math.sqrt(3)
    assert found.point == pytest.approx(math.exp(logs.mean()))
    assert (found.low, found.high) == pytest.approx(
        (math.exp(logs.mean() - half), math.exp(logs.mean() + half)), rel=1e-6
    )


def test_resampled_quantiles_equal_numpys_on_the_drawn_blocks() -> None:
    blocks = np.random.default_rng(1).lognormal(0, 1, (7, 5))
    blocks[2] = blocks[3]  # ties
    found = S._resampled_quantiles(blocks, (0.5, 0.9), 200, np.random.default_rng(5))
    drawn = np.random.default_rng(5).integers(0, 7, (200, 7))
    expected = np.quantile(blocks[drawn].reshape(200, -1), [0.5, 0.9], axis=1, method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)


def test_without_noise_every_number_is_exact() -> None:
    found = S.latency(np.full((3, 10, 30), 0.00125))
    assert found == S.Latency(0.00125, 0.00125, 0.00125, 0.00125, 0.00125, 0.00125, 0.00125, 900)
    assert S.ratio(np.full((3, 10, 4), 0.003), np.full((3, 10, 9), 0.0015)) == S.Ratio(2.0, 2.0, 2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.median = 1.0  # type: ignore[misc]


def test_a_ratio_by_hand() -> None:
    """Rounds' block medians 2/1, 8/2, 4/1: the median of the logs is log 4; a slow machine in round 2 cancels."""
    a = np.array([[[2.0, 2.0, 90.0], [8.0, 8.0, 8.0], [4.0, 4.0, 4.0]]])
    b = np.array([[[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [1.0, 1.0, 70.0]]])
    assert S.ratio(a, b).point == pytest.approx(4.0)
    two = S.ratio(np.concatenate([a, a / 4]), np.concatenate([b, b]))
    assert two.point == pytest.approx(2.0)  # the mean of log 4 and log 1
    assert two.low < 2.0 < two.high


def test_one_process_speaks_of_itself_only() -> None:
    random = np.random.default_rng(0)
    samples = np.exp(random.normal(0, 0.05, (3, 30, 10)))
    samples[1] *= 1.5
    alone, all_three = S.latency(samples[:1]), S.latency(samples)
    assert alone.high - alone.low < 0.1 < all_three.high - all_three.low


def test_no_outlier_is_dropped() -> None:
    samples = np.full((1, 10, 100), 1.0)
    samples[0, :, :11] = 50.0
    assert S.latency(samples).p90 == 50.0
    assert S.latency(samples).count == 1000


def test_too_few_samples_claim_no_tail() -> None:
    few = S.latency(np.exp(np.random.default_rng(0).normal(0, 0.1, (3, 3, 7))))
    assert (few.p90, few.p90_low, few.p90_high, few.p99) == (None, None, None, None)
    assert few.low <= few.median <= few.high


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((1, 0, 3)), np.ones((2, 2)), np.zeros((1, 1, 1)), np.full((1, 1, 1), math.nan), -np.ones((1, 1, 1))],
)
def test_impossible_samples_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="samples must be"):
        S.latency(wrong)


def test_samples_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        S.ratio(np.ones((2, 3, 4)), np.ones((2, 4, 4)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.integers(2, 8), st.integers(1, 5), st.integers(0, 1000), st.floats(1e-3, 1e3), st.booleans()
)
def test_intervals_hold_the_point_scale_with_the_unit_and_turn_over(
    processes: int, rounds: int, calls: int, seed: int, unit: float, heavy: bool
) -> None:
    random = np.random.default_rng(seed)
    shape = (processes, rounds, calls)
    a, b = (np.exp(random.standard_t(2, shape) if heavy else random.normal(0, 0.1, shape)) for _ in range(2))
    found = S.latency(a, resamples=200)
    assert found.low <= found.median <= found.high
    scaled = S.latency(a * unit, resamples=200)
    assert (scaled.low, scaled.median, scaled.high) == pytest.approx(
        (found.low * unit, found.median * unit, found.high * unit)
    )
    ratio, back = S.ratio(a, b, resamples=200), S.ratio(b, a, resamples=200)
    assert ratio.low <= ratio.point <= ratio.high
    assert ratio.point * back.point == pytest.approx(1.0)
    assert S.ratio(a, a, resamples=200) == S.Ratio(1.0, 1.0, 1.0)


@pytest.mark.parametrize(("processes", "between"), [(3, 0.0), (3, 0.01), (6, 0.01)])
def test_intervals_cover_the_truth_as_often_as_they_say(processes: int, between: float) -> None:
    """200 simulated races: calls, rounds and processes each with noise of their own. 95% is claimed.

    By chance alone 95% coverage gives fewer than 182 of 200 in less than 1 of 100 runs; the seeds are fixed.
    """
    random, runs = np.random.default_rng(42), 200
    hits = {"median": 0, "p90": 0, "ratio": 0}
    call, block, truth = 0.02, 0.02, 1e-3
    p90 = truth * math.exp(stats.norm.ppf(0.9) * math.sqrt(call**2 + block**2 + between**2))
    for run in range(runs):
        shape = (processes, 20, 8)
        shared = np.exp(random.normal(0, block, (processes, 20, 1)))
        a = truth * shared * np.exp(random.normal(0, between, (processes, 1, 1)) + random.normal(0, call, shape))
        b = truth * shared / 1.1 * np.exp(random.normal(0, call, shape))
        found, ratio = S.latency(a, run, 200), S.ratio(a, b, run, 200)
        assert found.p90_low is not None
        assert found.p90_high is not None
        hits["median"] += found.low <= truth <= found.high
        hits["p90"] += found.p90_low <= p90 <= found.p90_high
        hits["ratio"] += ratio.low <= 1.1 <= ratio.high
    assert min(hits.values()) >= 182, hits
    assert stats.binom.cdf(181, runs, 0.95) < 0.01
