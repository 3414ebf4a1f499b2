"""The programme against every plan there is, and the corrections that measuring brings."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest

from edgekd.blocks.budget import BlockBudget, Option, Timed, programme
from edgekd.blocks.programme import Plan, Programme, Resource, UnreachableError, choose
from edgekd.errors import UserError
from edgekd.latency.table import Kind, Measured

ORT, VINO = Kind("onnxruntime", "float32"), Kind("openvino", "float32")


def plans(losses: list[list[float]]) -> list[Plan]:
    return list(itertools.product(*(range(len(of)) for of in losses)))


@pytest.mark.parametrize("seed", range(25))
def test_the_plan_is_the_best_of_all(seed: int) -> None:
    """Four blocks of up to four alternatives, two limits, some alternatives not to be had."""
    chance = random.Random(seed)
    losses = [
        [0.0, *(chance.uniform(0, 10 ** chance.uniform(-4, 1)) for _ in range(chance.randint(1, 3)))] for _ in range(4)
    ]

    def costs() -> tuple[tuple[float, ...], ...]:
        return tuple(
            (0.0, *(math.inf if chance.random() < 0.1 else -chance.uniform(0, 2e-5) for _ in of[1:])) for of in losses
        )

    latency, size = (
        Resource(1e-4, costs(), chance.uniform(6e-5, 1e-4)),
        Resource(3e-4, costs(), chance.uniform(2.4e-4, 3e-4)),
    )
    able = [p for p in plans(losses) if latency.of(p) <= latency.limit and size.of(p) <= size.limit]
    best = min((sum(of[i] for of, i in zip(losses, p, strict=True)) for p in able), default=None)
    found = choose(losses, [latency, size])
    if found is None or best is None:
        assert found is None and best is None
        return
    assert found in able
    assert sum(of[i] for of, i in zip(losses, found, strict=True)) == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_equal_losses_change_fewer_blocks() -> None:
    saved = Resource(10.0, ((0.0, -4.0), (0.0, -4.0), (0.0, -4.0)), limit=6.0)
    found = choose([[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]], [saved])
    assert found in [(1, 0, 0), (0, 0, 1)]


def made(limit: float, *kinds: str, memory: float | None = None) -> Programme:
    """Two blocks: the first saves 3 of time and 1 of memory at a loss of 0.1, the second 4 and 5 at 0.2; from 10 and 20."""
    latency = Resource(10.0, ((0.0, -3.0), (0.0, -4.0)), limit)
    further = {"memory": Resource(20.0, ((0.0, -1.0), (0.0, -5.0)), memory)} if memory else {}
    return Programme(((0.0, 0.1), (0.0, 0.2)), {kind: {"latency": latency, **further} for kind in kinds or ("a",)})


def device(**taken: dict[Plan, float]) -> Callable[[Plan], dict[str, dict[str, float]]]:
    return lambda plan: {"a": {quantity: of[plan] for quantity, of in taken.items()}}


def test_a_miss_corrects_the_prediction() -> None:
    """7.5 allowed: the first block alone is predicted 7 and measured 8.4; 7.5 / 1.2 asks for the second, 6, measured 7.2."""
    told: list[Plan] = []
    best, tried = made(7.5).meet(device(latency={(1, 0): 8.4, (0, 1): 7.2}), told.append)
    assert [one.plan for one in tried] == told == [(1, 0), (0, 1)]
    assert (best.plan, best.predicted, best.measured, best.loss) == ((0, 1), {"latency": 6.0}, {"latency": 7.2}, 0.2)


def test_memory_is_kept_beside_latency_and_its_prediction_corrected() -> None:
    """7.5 and 20: the first block serves. At 16 the second has to go, predicted 15; measured 18 it is both, predicted 14 · 1.2."""
    latency = {(1, 0): 7.0, (0, 1): 6.0, (1, 1): 3.0}
    best, tried = made(7.5, memory=20.0).meet(device(latency=latency, memory={(1, 0): 19.0}), lambda plan: None)
    assert best.plan == (1, 0) and len(tried) == 1
    memory = {(0, 1): 18.0, (1, 1): 16.8}
    best, tried = made(7.5, memory=16.0).meet(device(latency=latency, memory=memory), lambda plan: None)
    assert [one.plan for one in tried] == [(0, 1), (1, 1)]
    assert (best.predicted, best.measured) == ({"latency": 3.0, "memory": 14.0}, {"latency": 3.0, "memory": 16.8})
    assert best.over == pytest.approx(16.8 / (1.05 * 16.0))


def test_one_engine_has_to_keep_all_limits() -> None:
    """The first kind is fast, the second small: the plan that both break somewhere is not kept, the next one is, by the second."""
    taken = {(0, 1): {"a": (6.0, 18.0), "b": (9.0, 15.0)}, (1, 1): {"a": (3.0, 17.5), "b": (7.0, 14.0)}}

    def measure(plan: Plan) -> dict[str, dict[str, float]]:
        return {kind: dict(zip(("latency", "memory"), both, strict=True)) for kind, both in taken[plan].items()}

    best, tried = made(7.5, "a", "b", memory=16.0).meet(measure, lambda plan: None)
    assert [one.over <= 1 for one in tried] == [False, True] and (best.plan, best.kind) == ((1, 1), "b")


def test_a_plan_is_never_slower_than_the_whole() -> None:
    """9.9 allowed and 5% tolerated: what measures 10.1 keeps that, and yet is no gain."""
    latency = {(1, 0): 10.1, (0, 1): 9.5, (1, 1): 9.0}
    best, tried = made(9.9).meet(device(latency=latency), lambda plan: None)
    assert tried[0].plan == (1, 0) and best.plan != (1, 0) and best.measured["latency"] < 10


def test_what_cannot_be_reached_says_the_least() -> None:
    with pytest.raises(UnreachableError) as caught:
        made(2.0).meet(device(latency={}), lambda plan: None)
    assert (caught.value.quantity, caught.value.least, caught.value.plan) == ("latency", 3.0, (1, 1)), (
        "nothing was tried"
    )
    with pytest.raises(UnreachableError) as caught:
        made(4.0).meet(device(latency={(1, 1): 5.0}), lambda plan: None)
    assert caught.value.least == 5.0 and caught.value.plan == (1, 1)
    with pytest.raises(UnreachableError) as caught:
        made(7.5, memory=12.0).meet(device(latency={}), lambda plan: None)
    assert (caught.value.quantity, caught.value.least, caught.value.plan) == ("memory", 14.0, (1, 1))


def option(name: str, loss: float, *shares: float, width: float = 0.0, size: int = 50) -> Option:
    timed = {
        kind: Timed(Measured(1e-3 * share, share, share - width, share + width), size)
        for kind, share in zip((ORT, VINO), shares, strict=False)
    }
    return Option(name, loss, timed, "" if shares else "ValueError: no")


WHOLE = {kind: Timed(Measured(1e-3, 1.0, 1.0, 1.0), 100) for kind in (ORT, VINO)}


def test_what_buys_no_measured_time_is_never_chosen() -> None:
    """The best by loss is as slow as the whole, within its interval; on the other runtime it is faster."""
    slow = option("slow", 0.0, 0.99, width=0.02)
    found, why = programme([[slow, option("fast", 0.5, 0.6)]], {ORT: WHOLE[ORT]}, BlockBudget("0.995x"))
    assert choose(found.losses, [of["latency"] for of in found.resources.values()]) == (2,)
    assert why == [["it buys no measured time: 0.990 (0.970 to 1.010) of the whole", ""]]
    both = option("slow", 0.0, 0.99, 0.9, width=0.02)
    found, why = programme([[both, option("fast", 0.5, 0.6, 0.8)]], WHOLE, BlockBudget("0.995x"))
    best, _ = found.meet(lambda plan: {kind: {"latency": 9e-4} for kind in found.resources}, lambda plan: None)
    assert best.plan == (1,) and why == [["", ""]]


def test_size_is_a_limit_of_its_own() -> None:
    small, large = option("small", 0.5, 0.6, size=40), option("large", 0.1, 0.6, size=90)
    for budget, expected in ((BlockBudget("0.8x"), (2,)), (BlockBudget("0.8x", size="50 B"), (1,))):
        found, _ = programme([[small, large]], {ORT: WHOLE[ORT]}, budget)
        taken = [{ORT.name: {"latency": 6e-4, "size": size}} for size in (100.0, 40.0, 90.0)]
        best, _ = found.meet(lambda plan, taken=taken: taken[plan[0]], lambda plan: None)
        assert best.plan == expected


@pytest.mark.parametrize(
    ("options", "budget", "message"),
    [
        ([option("a", 0.1, 0.5)], "2 ms", "takes 1.00 ms: a budget of 2 ms asks for nothing"),
        ([option("a", 0.1, 1.1)], "0.9x", r"no alternative to any block buys measured time: a: .* 1\.100"),
        ([option("a", 0.1)], "0.9x", "no alternative .*: a: ValueError: no"),
    ],
)
def test_budgets_and_blocks_that_leave_nothing_to_choose(options: list[Option], budget: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        programme([options], {ORT: WHOLE[ORT]}, BlockBudget(budget))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latency": "1.5x"}, 'below "1x"'),
        ({"latency": "0.5x", "size": "5 ms"}, 'budget.size: "5 ms" is not a quantity in B'),
        ({"latency": "0.5x", "memory": "1x"}, 'budget.memory: "1x" is not above "0x" and below "1x"'),
    ],
)
def test_a_budget_of_another_form_is_said(fields: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BlockBudget(**fields)
