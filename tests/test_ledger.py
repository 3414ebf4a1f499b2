"""Shares of the allowed drop and standard errors, by numbers worked out by hand or by an independent implementation."""

from __future__ import annotations

import math
from statistics import pvariance
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.ledger import changes, first_loss, losses, standard_error
from edgekd.report.figures import Flips
from edgekd.report.schema import LedgerRow

STATES = [
    ("teacher", "teacher"),
    ("float student", "student"),
    ("distilled", "distill"),
    ("pruned", "prune"),
    ("fake-quantized", "quantize"),
    ("exported", "quantize"),
    ("compiled", "quantize"),
]


def row(name: str, version: str, metric: float, **more: Any) -> LedgerRow:
    return LedgerRow(row=name, version=version, runs_in="torch", metric=metric, **more)


def ledger(*metrics: float) -> list[LedgerRow]:
    return [row(name, version, metric) for (name, version), metric in zip(STATES, metrics, strict=True)]


def test_the_first_row_that_lost_more_than_a_quarter_is_named() -> None:
    """0.01 over four rows is 0.0025 each: pruning lost 0.002, fake-quantization 0.003, compilation 0.004."""
    rows = ledger(0.95, 0.1, 0.94, 0.938, 0.935, 0.935, 0.931)
    found = first_loss(rows, "distill", 0.01)
    assert found is not None
    assert found.row == "fake-quantized"
    assert found.lost == pytest.approx(0.003)
    assert found.share == pytest.approx(0.0025)
    assert found.standard_error is None
    assert found.within_noise is None
    assert found.text == (
        '"fake-quantized" lost 0.30 points (93.80% → 93.50%); its share of the allowed 1.00 point is 0.25 points.'
    )


def test_exactly_the_share_is_not_too_much() -> None:
    """0.9 - 0.8975 is 0.0025000000000000577 in floating point."""
    assert 0.9 - 0.8975 > 0.0025
    assert first_loss(ledger(0.95, 0.1, 0.9, 0.8975, 0.895, 0.8925, 0.89), "distill", 0.01) is None


def test_a_gain_is_not_carried_over() -> None:
    """Pruning's recovery gained 0.005; quantization then lost 0.003, though it is still above the reference."""
    found = first_loss(ledger(0.95, 0.1, 0.94, 0.945, 0.942, 0.942, 0.942), "distill", 0.01)
    assert found is not None
    assert found.row == "fake-quantized"


def test_what_came_before_the_reference_does_not_count() -> None:
    """The student is 0.10 below the teacher: that is distillation's matter."""
    assert first_loss(ledger(0.95, 0.95, 0.85, 0.85, 0.85, 0.85, 0.85), "distill", 0.0) is None
    assert [bool(change) for change in losses(ledger(*[0.9] * 7), "distill", 0)] == [False] * 3 + [True] * 4


def test_the_reference_may_be_named_by_its_row() -> None:
    rows = ledger(0.95, 0.1, 0.94, 0.93, 0.93, 0.93, 0.93)
    found = first_loss(rows, "distilled", 0.01)
    assert found is not None
    assert found == first_loss(rows, "distill", 0.01)


def test_rows_of_one_name_are_alternatives() -> None:
    """Two targets, two compiled rows: 0.02 over pruned and compiled is 0.01 each, and both compare with pruned."""
    rows = [row("distilled", "distill", 0.94), row("pruned", "prune", 0.938)]
    rows += [row("compiled", "prune", 0.900), row("compiled", "prune", 0.937)]
    found = changes(rows, 0)
    assert [round(change.lost, 6) if change else None for change in found] == [None, 0.002, 0.038, 0.001]
    loss = first_loss(rows, "distill", 0.02)
    assert loss is not None
    assert (loss.row, loss.share) == ("compiled", 0.01)


def test_nothing_to_say_without_a_limit_or_without_rows() -> None:
    rows = ledger(0.95, 0.1, 0.94, 0.5, 0.5, 0.5, 0.5)
    assert first_loss(rows, "distill", None) is None
    assert first_loss(rows[:3], "distill", 0.01) is None


def test_a_reference_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match='no ledger row is of version "destill"'):
        first_loss(ledger(*[0.9] * 7), "destill", 0.01)


@pytest.mark.parametrize(
    ("before", "after", "samples", "flips", "expected"),
    [
        (0.9, 0.8, 100, None, math.sqrt(0.0009 + 0.0016)),  # 0.05
        (0.5, 0.5, 200, None, 0.05),
        (0.9, 0.8, 100, Flips(better=0, worse=10), 0.03),  # sqrt(10 - 100/100) / 100
        (0.5, 0.5, 50, Flips(better=8, worse=8), 0.08),  # sqrt(16) / 50
        (0.9, 0.9, 100, Flips(better=0, worse=0), 0.0),
        (0.9, 0.8, 100, Flips(better=0, worse=50), 0.05),  # these flips are of something else: the binomial one
        (0.9, 0.8, 0, None, None),
    ],
)
def test_standard_error(before: float, after: float, samples: int, flips: Flips | None, expected: float | None) -> None:
    assert standard_error(before, after, samples, flips) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_the_paired_standard_error_is_that_of_the_differences(answers: list[tuple[bool, bool]]) -> None:
    """Independent: the population variance of each sample's difference, over n."""
    n = len(answers)
    before, after = (sum(pair[i] for pair in answers) / n for i in (0, 1))
    flips = Flips(better=sum(b > a for a, b in answers), worse=sum(a > b for a, b in answers))
    expected = math.sqrt(pvariance([b - a for a, b in answers]) / n)
    assert standard_error(before, after, n, flips) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("better", "worse", "allowed", "within", "said"),
    [
        (8, 12, 0.01, True, "within noise: the loss cannot be told from none."),  # 0.04, se sqrt(19.84)/100 = 0.0445
        (
            0,
            10,
            0.05,
            False,
            "the loss is beyond noise, but not surely more than the share.",
        ),  # 0.1 - 1.96 * 0.03 = 0.0412
        (0, 10, 0.04, False, ": beyond noise."),
    ],
)
def test_how_sure_a_loss_is(better: int, worse: int, allowed: float, within: bool, said: str) -> None:
    flips = Flips(better=better, worse=worse)
    rows = [row("distilled", "distill", 0.9), row("compiled", "distill", 0.9 + (better - worse) / 100, flips=flips)]
    found = first_loss(rows, "distill", allowed, 100)
    assert found is not None
    assert found.within_noise is within
    assert found.text.endswith(said)


def test_the_error_of_a_metric_of_the_users_is_not_guessed() -> None:
    rows = [row("distilled", "distill", 0.9), row("pruned", "prune", 0.5, flips=Flips(better=0, worse=40))]
    found = first_loss(rows, "distill", 0.1, 100, "metrics:f1")
    assert found is not None
    assert found.standard_error is None
    assert "lost 0.4 (0.9 → 0.5)" in found.text
