"""The choice of the engine: each rule alone, then what must hold for any candidates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.choose import choose
from edgekd.report.figures import Latency, Ratio
from edgekd.report.schema import Budget, Candidate

FREE = Budget()


def latency(median: float, spread: float = 0.01, p90: float | None = 1.0) -> Latency:
    """A median in µs, the ends of its interval, and a p90 as a factor."""
    seconds = median * 1e-6
    tail = seconds * 1.1 * p90 if p90 else None
    return Latency(median=seconds, low=seconds * (1 - spread), high=seconds * (1 + spread), p90=tail, count=900)


def engine(name: str, median: float | None = 100, size: int = 1000, score: float = 0.94, **more: Any) -> Candidate:
    content: dict[str, Any] = {
        "version": name.split()[0],
        "backend": "onnxruntime",
        "precision": "float32",
        "bytes": size,
        "metric_validation": score,
        "latency": latency(median) if median else None,
    }
    return Candidate.model_validate({"name": name, **content, **more})


def int8(name: str, median: float, point: float, low: float, high: float, **more: Any) -> Candidate:
    return engine(name, median, precision="int8", versus_float=Ratio(point=point, low=low, high=high), **more)


def verdicts(candidates: tuple[Candidate, ...]) -> dict[str, str]:
    return {one.name: one.verdict for one in candidates}


def reason_of(candidates: tuple[Candidate, ...], name: str) -> str:
    return next(one.reason for one in candidates if one.name == name)


def test_the_fastest_is_chosen_and_the_others_say_by_how_much() -> None:
    found = choose([engine("distill", 200), int8("quantize", 100, 0.5, 0.48, 0.52)], FREE, 0.94)
    assert (found.chosen, found.nearest) == ("quantize", None)
    assert verdicts(found.candidates) == {"distill": "kept", "quantize": "chosen"}
    assert reason_of(found.candidates, "distill") == "keeps the budget, 2.00× the chosen one's median"
    assert found.reason == "quantize is the fastest, median 100 µs, the recipe sets no budget."


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        ((1.29, 1.21, 1.35), "int8 is not faster than float on onnxruntime: 1.29× slower (1.21–1.35)"),
        ((0.99, 0.97, 1.02), "int8 is not faster than float on onnxruntime: not distinguishable, 0.99× (0.97–1.02)"),
        ((0.98, 0.96, 1.0), "int8 is not faster than float on onnxruntime: not distinguishable, 0.98× (0.960–1.000)"),
    ],
)
def test_an_integer_engine_not_faster_than_float_is_never_chosen(ratio: tuple[float, float, float], said: str) -> None:
    """Not even where its own median is the lowest: the ratio was raced side by side."""
    found = choose([engine("distill", 100), int8("quantize", 50, *ratio, size=10)], FREE, 0.94)
    assert found.chosen == "distill"
    assert reason_of(found.candidates, "quantize") == said
    assert found.reason.endswith(f"; not quantize: {said}.")


def test_an_integer_engine_that_was_not_raced_against_float_is_not_chosen() -> None:
    found = choose([engine("distill", 100), engine("quantize", 50, precision="int8")], FREE, 0.94)
    assert found.chosen == "distill"
    assert "was not raced against float on onnxruntime" in reason_of(found.candidates, "quantize")


def test_the_teacher_is_a_reference_and_a_failure_stays_one() -> None:
    broken = engine("quantize", None, verdict="failed", reason="compiling: no kernel")
    found = choose([engine("teacher", 1), broken, engine("distill", 100)], FREE, 0.94)
    assert verdicts(found.candidates) == {"teacher": "reference", "quantize": "failed", "distill": "chosen"}
    assert reason_of(found.candidates, "quantize") == "compiling: no kernel"


def test_a_drop_of_exactly_the_limit_is_kept() -> None:
    """0.94 - 0.93 is 0.009999999999999898, 0.95 - 0.94 is 0.010000000000000009."""
    assert 0.95 - 0.94 > 0.01
    assert choose([engine("prune", score=0.94)], Budget(metric_drop=0.01), 0.95).chosen == "prune"
    found = choose([engine("prune", score=0.9399)], Budget(metric_drop=0.01), 0.95)
    assert found.chosen is None
    assert reason_of(found.candidates, "prune") == "accuracy drop 1.01 points, limit 1.00 point"


def test_every_limit_that_is_broken_is_named() -> None:
    budget = Budget(metric_drop=0.01, latency_p90=1e-4, size=999)
    found = choose([engine("distill", 100, 1000, 0.92)], budget, 0.94)
    assert reason_of(found.candidates, "distill") == (
        "accuracy drop 2.00 points, limit 1.00 point; latency p90 110 µs, limit 100 µs; size 1.00 kB, limit 999 B"
    )


def test_memory_and_cold_start_are_limits_too() -> None:
    lean = engine("prune", 200, peak_memory=40_000_000, cold_start=0.03)
    quick = engine("distill", 100, peak_memory=90_000_000, cold_start=0.08)
    found = choose([quick, lean], Budget(memory=60_000_000, cold_start=0.05), 0.94)
    assert found.chosen == "prune"
    said = "memory 90.0 MB, limit 60.0 MB; cold start 80.0 ms, limit 50.0 ms"
    assert reason_of(found.candidates, "distill") == said
    untimed = engine("prune", None)
    nearest = choose([untimed], Budget(memory=1, size=2000), 0.94, unmeasured="no device")
    assert nearest.reason.endswith("Nearest: prune, the smallest that keeps size ≤ 2.00 kB.")


def test_what_is_not_known_does_not_keep_a_limit() -> None:
    few = engine("distill", latency=latency(100, p90=None))
    found = choose([few, engine("prune", metric_validation=None)], Budget(latency_p90=1.0, metric_drop=1.0), 0.94)
    assert found.chosen is None
    assert reason_of(found.candidates, "distill") == "latency p90 is not known"
    assert reason_of(found.candidates, "prune") == "accuracy drop is not known"
    assert choose([few], FREE, 0.94).chosen == "distill"


def test_of_engines_as_fast_the_smallest_then_the_best_is_chosen() -> None:
    """Medians of 100 and 101 µs, each ±1%: 99–101 and 99.99–102.01 overlap; 104 µs ± 1% begins at 102.96."""
    wide = [engine("a", 100, 900, 0.94), engine("b", 101, 800, 0.93), engine("c", 101, 800, 0.94), engine("d", 104, 1)]
    found = choose(wide, FREE, 0.94)
    assert found.chosen == "c"
    assert verdicts(found.candidates) == {"a": "kept", "b": "kept", "c": "chosen", "d": "kept"}
    said = "keeps the budget, as fast as the chosen one but larger or no better (900 B)"
    assert reason_of(found.candidates, "a") == said
    assert "as fast as a, b (median 101 µs)" in found.reason


def test_engines_raced_side_by_side_are_told_apart_by_their_ratio() -> None:
    """The intervals of the medians overlap, the ratio's does not hold 1; and the other way round."""
    both = [engine("a", 100, 900), engine("b", 101, 800)]
    assert choose(both, FREE, 0.94, lambda *_: Ratio(point=1.01, low=1.005, high=1.02)).chosen == "a"
    apart = [engine("a", 100, 900), engine("b", 110, 800)]
    assert choose(apart, FREE, 0.94).chosen == "a"
    assert choose(apart, FREE, 0.94, lambda *_: Ratio(point=1.05, low=0.99, high=1.12)).chosen == "b"
    kept = choose(both, FREE, 0.94, lambda *_: Ratio(point=1.02, low=1.01, high=1.03)).candidates[1]
    assert kept.reason == "keeps the budget, 1.02× slower than the chosen one (1.01–1.03)"


def test_the_fastest_that_breaks_the_budget_gives_way() -> None:
    found = choose([engine("distill", 200), engine("prune", 100, score=0.90)], Budget(metric_drop=0.01), 0.94)
    assert found.chosen == "distill"
    assert found.reason == "distill is the fastest, median 200 µs, keeping the budget (accuracy drop ≤ 1.00 point)."


def test_where_none_keeps_the_budget_the_nearest_is_named() -> None:
    """Of 500 bytes allowed one has 1000 (2×), the other 600 (1.2×)."""
    both = [engine("distill", 50, 1000), engine("prune", 100, 600)]
    found = choose(both, Budget(size=500), 0.94)
    assert (found.chosen, found.nearest) == (None, "prune")
    assert (
        found.reason == "No engine keeps the budget. size ≤ 500 B: the least reached is 600 B (prune). Nearest: prune."
    )
    assert set(verdicts(found.candidates).values()) == {"rejected"}


def test_limits_that_can_be_kept_one_at_a_time() -> None:
    """The one is 1.8 times over in size, the other 2 times in time."""
    both = [engine("distill", 100, 900), engine("prune", 200, 500)]
    found = choose(both, Budget(size=500, latency_p90=1.1e-4), 0.94)
    assert found.nearest == "distill"
    assert "latency p90 ≤ 110 µs: kept by distill only; size ≤ 500 B: kept by prune only" in found.reason


def test_fewer_broken_limits_come_before_smaller_ones() -> None:
    budget = Budget(size=1000, latency_p90=1e-4)
    found = choose([engine("distill", 100, 1010), engine("prune", 80, 9000)], budget, 0.94)
    assert found.nearest == "prune"


def test_a_limit_of_zero() -> None:
    both = [engine("distill", score=0.93), engine("prune", score=0.92)]
    assert choose(both, Budget(metric_drop=0.0), 0.93).chosen == "distill"
    assert choose(both, Budget(metric_drop=0.0), 0.94).nearest == "distill"


def test_nothing_to_choose_from() -> None:
    found = choose([engine("teacher"), engine("distill", None)], FREE, 0.94)
    assert (found.chosen, found.nearest) == (None, None)
    assert found.reason == "No engine could be chosen: distill: its latency was not measured."
    assert choose([], FREE, 0.94).reason == "No engine could be chosen."


def test_a_slower_integer_engine_is_not_even_the_nearest() -> None:
    found = choose(
        [engine("distill", 100, 9000), int8("quantize", 90, 1.2, 1.1, 1.3, size=600)], Budget(size=500), 0.94
    )
    assert found.nearest == "distill"
    assert "quantize: int8 is not faster than float" in found.reason


def test_a_metric_of_the_users_is_written_as_it_is() -> None:
    found = choose([engine("prune", score=0.5)], Budget(metric_drop=0.1), 0.94, metric="metrics:f1")
    assert reason_of(found.candidates, "prune") == "f1 drop 0.44, limit 0.1"


ratios = st.builds(
    lambda point, spread: Ratio(point=point, low=point * (1 - spread), high=point * (1 + spread)),
    st.floats(0.3, 2.0),
    st.floats(0.0, 0.2),
)
pools = st.lists(
    st.builds(
        lambda version, precision, median, size, score, ratio, verdict: (
            version,
            precision,
            median,
            size,
            score,
            ratio,
            verdict,
        ),
        st.sampled_from(["teacher", "distill", "prune", "quantize"]),
        st.sampled_from(["float32", "int8"]),
        st.none() | st.floats(10, 1000),
        st.integers(1, 2000),
        st.none() | st.floats(0.85, 0.95),
        st.none() | ratios,
        st.sampled_from(["kept", "kept", "kept", "failed"]),
    ),
    max_size=8,
)
budgets = st.builds(
    lambda drop, p90, size: Budget(metric_drop=drop, latency_p90=p90, size=size),
    st.none() | st.floats(0, 0.1),
    st.none() | st.floats(1e-5, 1e-3),
    st.none() | st.integers(1, 2000),
)


@given(pools, budgets, st.randoms(use_true_random=False))
def test_what_holds_for_any_candidates(pool: list[tuple[Any, ...]], budget: Budget, random: Any) -> None:
    """The chosen one may be chosen; no other that may be is surely faster; and order does not matter."""
    candidates = [
        engine(
            f"{version} {i}",
            median,
            size,
            0.0,
            precision=precision,
            metric_validation=score,
            versus_float=ratio,
            verdict=verdict,
        )
        for i, (version, precision, median, size, score, ratio, verdict) in enumerate(pool)
    ]

    def may(one: Candidate) -> bool:
        raced = one.precision == "float32" or (one.versus_float is not None and one.versus_float.high < 1)
        if one.version == "teacher" or one.verdict == "failed" or one.latency is None or not raced:
            return False
        drop = None if one.metric_validation is None else 0.94 - one.metric_validation
        keeps_metric = budget.metric_drop is None or (drop is not None and drop <= budget.metric_drop + 1e-9)
        keeps_p90 = budget.latency_p90 is None or (one.latency.p90 or 9) <= budget.latency_p90 + 1e-9
        return keeps_metric and keeps_p90 and (budget.size is None or (one.bytes or 0) <= budget.size)

    found = choose(candidates, budget, 0.94)
    assert [one.name for one in found.candidates] == [one.name for one in candidates]
    able = {one.name: one for one in candidates if may(one)}
    if not able:
        assert found.chosen is None
    else:
        chosen = able[str(found.chosen)].latency
        assert chosen is not None
        assert not any(one.latency and one.latency.high < chosen.low for one in able.values())
    assert all(one.reason for one in found.candidates if one.verdict in ("rejected", "kept", "chosen", "reference"))
    shuffled = random.sample(candidates, len(candidates))
    again = choose(shuffled, budget, 0.94)
    assert (again.chosen, again.nearest) == (found.chosen, found.nearest)


WHY = "the device is reached by ssh"


def test_where_nothing_can_be_timed_the_smallest_that_keeps_the_rest_is_nearest() -> None:
    engines = [
        engine("distill", None, size=1000, score=0.95),
        engine("prune", None, size=600, score=0.94),
        engine("quantize", None, size=300, score=0.90, precision="int8"),
        engine("teacher", None, size=100, score=0.99),
    ]
    found = choose(engines, Budget(metric_drop=0.02, latency_p90=1e-3), 0.95, unmeasured=WHY)
    assert (found.chosen, found.nearest) == (None, "prune")
    said = f"No engine is chosen, since latency was not measured: {WHY}. Nearest: prune, the smallest that keeps "
    assert found.reason == f"{said}accuracy drop ≤ 2.00 points."
    assert set(verdicts(found.candidates).values()) == {"rejected", "reference"}
    assert reason_of(found.candidates, "prune").startswith("its latency was not measured")
    broken = choose(engines[:1], Budget(size=500), 0.95, unmeasured=WHY)
    assert broken.nearest == "distill"
    assert broken.reason.endswith("Nearest: distill, the smallest, though size 1.00 kB, limit 500 B.")
    assert choose(engines[3:], FREE, 0.95, unmeasured=WHY).nearest is None


def test_a_simulated_one_is_never_chosen() -> None:
    """It has the best score and no latency: no runtime has kernels for it."""
    said = "simulated in torch: no runtime here has kernels for W4A4"
    simulated = engine("quantize", None, score=0.99, precision="W4A4", verdict="simulated", reason=said)
    found = choose([engine("distill", 100), simulated], FREE, 0.94)
    assert verdicts(found.candidates) == {"distill": "chosen", "quantize": "simulated"}
    assert reason_of(found.candidates, "quantize") == said
    assert choose([simulated], FREE, 0.94).nearest is None


def test_one_that_could_only_be_built_is_never_chosen_and_named_where_nothing_else_is() -> None:
    built = engine("coreml", None, verdict="built", reason="built, not measured: it runs elsewhere")
    found = choose([engine("distill", 100), built], FREE, 0.94)
    assert verdicts(found.candidates) == {"distill": "chosen", "coreml": "built"}
    assert "coreml" not in found.reason
    alone = choose([built], FREE, 0.94)
    assert (alone.chosen, alone.nearest) == (None, None)
    assert alone.reason == "No engine could be chosen: coreml: built, not measured: it runs elsewhere."


def test_an_engine_that_is_noisier_than_the_budget_says_is_rejected() -> None:
    noisy = engine("prune", 100).model_copy(update={"sqnr_validation": 13.0})
    clean = engine("distill", 200).model_copy(update={"sqnr_validation": 20.0})
    found = choose([noisy, clean], Budget(sqnr=20.0), 0.94)
    assert found.chosen == clean.name
    assert found.candidates[0].reason == "noise −13.0 dB, limit −20.0 dB"
    assert "noise ≤ −20.0 dB" in found.reason


def test_what_was_rejected_before_the_choice_stays_so() -> None:
    searched = engine("prune").model_copy(update={"verdict": "rejected", "reason": "no pair pays", "latency": None})
    found = choose([searched, engine("distill")], FREE, 0.94)
    assert (found.candidates[0].verdict, found.candidates[0].reason) == ("rejected", "no pair pays")
    assert "no pair pays" not in found.reason
