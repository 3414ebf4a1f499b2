"""Signals besides latency: each at its tolerance, just beyond it, and unknown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from edgekd.check import gates, starts
from edgekd.check.gates import SIGNALS, judge, read_share, read_tolerances
from edgekd.errors import UserError
from edgekd.latency.turn import ColdStart


@pytest.mark.parametrize(
    ("name", "baseline", "good", "bad"),
    [
        ("bytes", 100_000, 101_000, 101_001),
        ("metric", 0.94, 0.935, 0.9349),
        ("teacher", 0.97, 0.96, 0.9599),
        ("delegated", 1.0, 0.98, 0.979),
        ("reformats", 3, 5, 6),
        ("instructions", 1e6, 1.005e6, 1.0051e6),
        ("cold_start", 0.100, 0.125, 0.126),
        ("cold_start", 0.010, 0.030, 0.031),  # the floor of 20 ms
        ("peak_memory", 30e6, 33e6, 33.1e6),
        ("agreement", 1.0, 0.75, 0.7),
        ("parity", 1.0, 1.0, 1.01),
    ],
)
def test_each_signal_at_its_own_tolerance(name: str, baseline: float, good: float, bad: float) -> None:
    assert judge(name, baseline, good, None).state == "pass"
    assert judge(name, baseline, bad, None).state == "regressed"
    better = baseline * (2 if SIGNALS[name].kind == "fall" else 0.5)
    assert judge(name, baseline, better, None).state == "pass"
    assert judge(name, None, bad, None).state == "unknown"
    assert judge(name, baseline, bad, math.nan).state == "off"
    assert judge(name, baseline, bad, 100.0).state == "pass"


def test_tolerances_are_read_and_misspelt_ones_named() -> None:
    found = read_tolerances(["bytes=2%", "metric=0.01", "cold_start=off", "parity=0"])
    assert {k: v for k, v in found.items() if not math.isnan(v)} == {"bytes": 0.02, "metric": 0.01, "parity": 0.0}
    assert math.isnan(found["cold_start"])
    with pytest.raises(UserError, match='no signal called "byte"') as caught:
        read_tolerances(["byte=2%"])
    assert caught.value.hint == 'did you mean "bytes"?'
    with pytest.raises(UserError, match='--allow bytes=-1%: "-1%" is not a share of at least 0'):
        read_tolerances(["bytes=-1%"])
    for wrong in ("0%", "-5%", "0", "five", "", "nan", "inf", "5%%"):
        with pytest.raises(UserError, match="is not a share above 0"):
            read_share(wrong, "--tolerance")
    for ask in (lambda: read_share("5", "--tolerance"), lambda: read_tolerances(["bytes=5"])):
        with pytest.raises(UserError, match='"5" is 500%') as caught:
            ask()
        assert caught.value.hint == 'write "5%", or "500%"'
    assert read_share("500%", "--tolerance") == 5.0
    assert read_tolerances(["reformats=3", "parity=2"]) == {"reformats": 3.0, "parity": 2.0}


def manifest(metric: float | None, top1: float | None, data: str = "d") -> dict[str, Any]:
    agreement = None if top1 is None else {"top1": top1, "kl": 0.1}
    return {"promised": {"metric": metric, "agreement": agreement}, "digests": {"data": data}}


def test_recorded_scores_compare_only_on_the_same_data() -> None:
    states = [g.state for g in gates.recorded([manifest(0.94, 0.97), manifest(0.90, 0.97)], {})]
    assert states == ["regressed", "pass"]
    other = gates.recorded([manifest(0.94, 0.97), manifest(0.90, 0.97, "e")], {})
    assert [(g.state, g.note) for g in other] == [("unknown", "scored on other data")] * 2
    assert [g.state for g in gates.recorded([manifest(0.94, None), {}], {})] == ["unknown", "unknown"]


def test_what_an_engine_is_built_of() -> None:
    old = {"bytes": 1000, "integer_nodes": 9, "float_nodes": 1, "kernels": {"QLinearConv": 9, "Conv": 1, "Cast": 1}}
    new = {"bytes": 1000, "integer_nodes": 5, "float_nodes": 5, "kernels": {"Conv": 5, "Cast": 2, "Transpose": 2}}
    found = {g.name: g for g in gates.built([old, new], {})}
    assert (found["delegated"].baseline, found["delegated"].candidate) == (0.9, 0.5)
    assert (found["reformats"].baseline, found["reformats"].candidate) == (1, 4)
    assert [found[n].state for n in ("bytes", "delegated", "reformats")] == ["pass", "regressed", "regressed"]
    openvino = {"kernels": {"Reorder float": 3, "Convolution int8": 9, "FakeQuantize int8": 1}}
    assert gates.built([openvino, {"kernels": {}}], {})[2].baseline == 4
    assert gates.delegated({"integer_nodes": 0, "float_nodes": 0}) is None


def test_parity_and_agreement() -> None:
    golden = np.array([[0.0, 1.0], [2.0, 1.0]], np.float32)
    within = {"top1": 1.0, "absolute": 0.1}
    assert gates.parity(golden, golden, within, None).candidate == 0.0
    near = gates.parity(golden + np.float32([0.05, 0.0]), golden, within, None)
    assert near.state == "pass" and near.candidate == pytest.approx(0.5, rel=1e-3)
    assert gates.parity(golden + np.float32([0.2, 0.0]), golden, within, None).state == "regressed"
    assert gates.parity(golden + np.float32([0.2, 0.0]), golden, within, 2.0).state == "pass"
    assert gates.parity(golden, golden, {"absolute": 0.0}, None).candidate == 0.0
    assert gates.parity(golden + np.float32(1e-6), golden, {"absolute": 0.0}, None).state == "regressed"
    flipped = gates.parity(golden[:, ::-1], golden, {"absolute": 100.0}, None)
    assert flipped.state == "regressed" and "same class for 0%" in flipped.note
    assert gates.parity(golden * np.nan, golden, within, None).state == "regressed"
    assert gates.parity(golden[:1], golden, within, None).state == "regressed"
    assert gates.parity(golden, None, within, None).state == "unknown"
    assert gates.agreement(golden, golden[::-1], None).candidate == 0.0
    assert gates.agreement(golden * np.nan, golden, None).state == "regressed"


def cold(*seconds: float) -> list[ColdStart]:
    return [ColdStart(s, 30_000_000, 60_000_000) for s in seconds]


def test_cold_starts_regress_only_if_chance_would_hardly_do_it() -> None:
    """Five above five: one order of 252, p = 0.4%. Three above three is one of 20: too few to say anything."""
    old, new = (0.10, 0.11, 0.12, 0.10, 0.11), (0.20, 0.21, 0.22, 0.21, 0.20)
    apart = gates.started(cold(*old), cold(*new), {}, False)
    assert [(g.name, g.state) for g in apart] == [("cold_start", "regressed"), ("peak_memory", "pass")]
    few = gates.started(cold(*old[:3]), cold(*new[:3]), {}, False)
    assert (few[0].state, few[0].note) == ("pass", gates.FEW)
    overlap = gates.started(cold(*old[:4], 0.30), cold(*new), {}, False)
    assert (overlap[0].state, overlap[0].note) == ("pass", "single starts overlap")
    assert [g.state for g in gates.started([], cold(0.1), {}, False)] == ["unknown", "unknown"]
    assert gates.started(cold(0.1), cold(0.1), {}, True)[1].note == "simulated"


@pytest.mark.parametrize(("seconds", "asked", "state"), [(0.10, 4, "pass"), (0.20, 14, "regressed")])
def test_more_cold_starts_until_they_do_not_look_worse_or_ten_of_each_do(
    seconds: float, asked: int, state: str
) -> None:
    """0.10, 0.20, 0.21 against 0.10: with one pair more the median is 0.15, still worse; with two 0.10."""
    sides: list[str] = []

    def start(side: str) -> ColdStart:
        sides.append(side)
        return cold(seconds if side == "candidate" else 0.10)[0]

    known = {"baseline": cold(0.10, 0.10, 0.10), "candidate": cold(0.10, 0.20, 0.21)}
    if state == "regressed":
        known["candidate"] = cold(0.20, 0.21, 0.22)
    found = starts.judged(known, {}, start, seed=0, simulated=False)
    assert (found[0].state, len(sides)) == (state, asked)
    assert sides.count("baseline") == sides.count("candidate") and len(known["baseline"]) == 3


@pytest.mark.parametrize(("m", "n"), [(3, 3), (4, 6), (5, 5)])
def test_the_rank_test_is_scipys(m: int, n: int) -> None:
    random = np.random.default_rng([m, n])
    for shift in (0.0, 0.5, 2.0):
        lower, upper = random.normal(size=m), random.normal(shift, size=n)
        expected = mannwhitneyu(upper, lower, alternative="greater", method="exact").pvalue
        assert gates.rank_p(lower.tolist(), upper.tolist()) == pytest.approx(expected, rel=1e-12)
