"""The gate's statistics: by hand, against SciPy, and on simulated machines whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.noise import BIMODAL, NOISY, QUIET, rates
from edgekd.check import verdict
from edgekd.check.verdict import RUNNERS, Estimate, Rule, contrasts, holm, look, settled, wanted
from edgekd.latency.statistics import student_tail


def four(ratios: list[list[float]], seconds: float = 1e-3, rounds: int = 3) -> dict[str, np.ndarray]:
    """Samples without noise: `ratios[process]` of the four runners to `seconds`, in each of `rounds` rounds of 2 calls."""
    values = seconds * np.array(ratios)
    return {name: np.repeat(values[:, i], rounds * 2).reshape(-1, rounds, 2) for i, name in enumerate(RUNNERS)}


def test_contrasts_by_hand() -> None:
    samples = four([[1, 2, 4, 8]])
    slowdown, control = contrasts(samples)
    assert slowdown[0] == pytest.approx(np.log(4.0))  # sqrt(4 · 8) / sqrt(1 · 2)
    assert control[0] == pytest.approx(np.log(2.0))


def test_what_hits_a_whole_round_cancels() -> None:
    samples = four([[1, 1, 1.1, 1.1]] * 4)
    for values in samples.values():
        values[2, 1] *= 7.0
    found = look(samples, Rule(0.05, 0.0))
    assert (found.ratio.point, found.ratio.low, found.ratio.high) == pytest.approx((1.1, 1.1, 1.1))
    assert found.state == "regressed"


def test_without_noise_the_limit_decides_exactly() -> None:
    for ratio, state in ((1.0, "pass"), (1.0499, "pass"), (1.0501, "regressed"), (0.5, "pass")):
        assert look(four([[1, 1, ratio, ratio]] * 3), Rule(0.05, 0.0)).state == state


def test_the_floor_is_a_limit_too() -> None:
    """15% of 100 µs are 15 µs, under a floor of 20 µs; of 200 µs 30 µs, over it."""
    assert look(four([[1, 1, 1.15, 1.15]] * 3, 1e-4), Rule(0.05, 20e-6)).state == "pass"
    assert look(four([[1, 1, 1.15, 1.15]] * 3, 2e-4), Rule(0.05, 20e-6)).state == "regressed"
    assert look(four([[1, 1, 1.15, 1.15]] * 3, 1e-4), Rule(0.05, 10e-6)).state == "regressed"


def test_an_interval_by_hand() -> None:
    """Slowdowns 2%, 4%, 6% in logs: mean 4%, s = 2%, so the lower end at 0.025 / 8 is 4% − t s / sqrt(3).

    With 2 degrees of freedom t = (2q − 1) / sqrt(2 q (1 − q)): 0.99375 / sqrt(2 · 0.996875 · 0.003125) = 12.5897.
    """
    samples = four([[1, 1, math.exp(x), math.exp(x)] for x in (0.02, 0.04, 0.06)])
    found = look(samples, Rule(0.05, 0.0))
    t = stats.t.ppf(1 - 0.003125, 2)
    assert t == pytest.approx(12.5897, abs=1e-4)
    assert math.log(found.ratio.low) == pytest.approx(0.04 - t * 0.02 / math.sqrt(3))
    assert math.log(found.ratio.high) == pytest.approx(0.04 + stats.t.ppf(0.95, 2) * 0.02 / math.sqrt(3))
    assert found.state == "undecided" and found.control_fits and settled(found) == "pass"


def test_p_values_are_scipys_and_cost_their_looks() -> None:
    logs = np.repeat(np.array([0.08, 0.1, 0.11, 0.09, 0.12])[:, None], 4, axis=1)
    estimate = Estimate.of(logs, np.random.default_rng(0))
    assert estimate.p(0.05) == pytest.approx(stats.ttest_1samp(logs[:, 0], 0.05, alternative="greater").pvalue)
    assert estimate.p(0.2) == 1.0
    for t in (0.0, 0.5, 2.0, 9.0):
        assert student_tail(4, t) == pytest.approx(stats.t.sf(t, 4), abs=1e-12)
    samples = four([[1, 1, math.exp(x), math.exp(x)] for x in logs[:, 0]])
    for number in (1, 5):
        found = look(samples, Rule(math.expm1(0.05), 0.0), number)
        assert found.p == pytest.approx(8 * stats.ttest_1samp(logs[:, 0], 0.05, alternative="greater").pvalue)


def test_a_control_that_does_not_fit_is_no_pass_and_widens_the_interval() -> None:
    """The baseline against itself ±8% from process to process: nothing at 5% can be told, a factor of two can."""
    wild = [[1, math.exp(x), 1, math.exp(x)] for x in (0.08, -0.08, 0.08, -0.08, 0.08, -0.08)]
    equal = look(four(wild), Rule(0.05, 0.0))
    assert not equal.control_fits
    assert (equal.state, settled(equal)) == ("undecided", "inconclusive")
    double = [[a, b, 2 * c, 2 * d] for a, b, c, d in wild]
    assert look(four(double), Rule(0.05, 0.0)).state == "regressed"
    a_little = [[a, b, 1.15 * c, 1.15 * d] for a, b, c, d in wild]
    assert settled(look(four(a_little), Rule(0.05, 0.0))) == "inconclusive"


def test_a_control_that_misses_1_takes_as_much_from_the_candidate() -> None:
    """The second copy always 3% slower, both times: the control is exactly 3% off, so 7% more counts as 4%."""
    biased = [[1, 1.03, 1.07, 1.07 * 1.03]] * 4
    found = look(four(biased), Rule(0.05, 0.0))
    assert found.control.low == pytest.approx(1.03)
    assert found.ratio.low == pytest.approx(1.07 / 1.03)
    assert found.ratio.high == pytest.approx(1.07 * 1.03)
    assert found.state == "undecided"
    assert settled(found) == "inconclusive"  # 7% is over the limit, and the interval does not say so


def test_processes_are_the_unit_that_is_resampled() -> None:
    """Two thousand rounds of three processes that lie ±3% apart say no more of a fourth than three rounds do."""
    spread = [[1, 1, math.exp(x), math.exp(x)] for x in (-0.03, 0.0, 0.03)]
    few, many = (look(four(spread, rounds=n), Rule(0.05, 0.0)) for n in (3, 2000))
    assert few.ratio == many.ratio
    boot = verdict.resampled(contrasts(four(spread))[0], np.random.default_rng(1))
    assert boot.std() == pytest.approx(0.03 * math.sqrt(2 / 3) / math.sqrt(3), rel=0.05)


def test_eight_looks_and_holm_by_hand() -> None:
    assert [wanted(n) for n in range(1, 9)] == [6, 10, 16, 26, 42, 68, 110, math.inf]
    assert verdict.LOOKS == 8
    # alpha 0.05: 0.011 ≤ 0.05/4, then 0.02 > 0.05/3 stops, though 0.02 and 0.03 would pass looser levels
    assert holm([0.02, 0.011, 0.9, 0.03], 0.05) == [False, True, False, False]
    assert holm([], 0.05) == []


def test_simulated_machines_raise_few_alarms_and_hide_little() -> None:
    """A/A and known slowdowns under processes of two kinds, ±4% and ±1%, and with a neighbour that disturbs blocks.

    Bars: false alarms at most 1%, 15% found in 99%, 8% in 90%. The larger run is benchmarks/gate.py's; seeds are fixed.
    """
    rule = Rule(0.05, 0.0)
    for machine in (QUIET, BIMODAL, NOISY):
        same = rates(machine, 1.0, rule, 32, 25)
        assert same["regressed"] == 0.0
        assert same["inconclusive"] <= 0.2
        assert rates(machine, 1.15, rule, 32, 25)["regressed"] >= (0.96 if machine is NOISY else 1.0)
    assert rates(QUIET, 1.08, rule, 32, 40)["regressed"] >= 0.9
    assert rates(QUIET, 1.0, rule, 32, 20)["processes"] <= 7
    assert rates(BIMODAL, 1.08, rule, 50, 12)["regressed"] >= 0.9


def test_at_the_limit_itself_alarms_are_rare_whatever_the_number_of_looks() -> None:
    """A truth of exactly 5% is called regressed with probability 2.5% at most; more than 3 of 40 would be 2% likely."""
    found = rates(BIMODAL, 1.05, Rule(0.05, 0.0), 21, 40)
    assert found["regressed"] <= 3 / 40
    assert stats.binom.sf(3, 40, 0.025) < 0.02
