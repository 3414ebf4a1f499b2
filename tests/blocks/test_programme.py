"""The programme against every plan there is, and the corrections that measuring brings."""

from __future__ import annotations

import itertools
import math
import random

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


def made(limit: float, *kinds: str) -> Programme:
    """Two blocks: the first saves 3 at a loss of 0.1, the second 4 at 0.2; from 10."""
    costs = ((0.0, -3.0), (0.0, -4.0))
    return Programme(((0.0, 0.1), (0.0, 0.2)), {kind: Resource(10.0, costs) for kind in kinds or ("a",)}, {}, limit)


def test_a_miss_corrects_the_prediction() -> None:
    """7.5 allowed: the first block alone is predicted 7 and measured 8.4; 7.5 / 1.2 asks for the second, 6, measured 7.2."""
    told: list[Plan] = []
    truth = {(1, 0): 8.4, (0, 1): 7.2}
    best, tried = made(7.5).meet(lambda plan: (truth[plan], 0), told.append)
    assert [one.plan for one in tried] == told == [(1, 0), (0, 1)]
    assert (best.plan, best.predicted, best.measured, best.loss) == ((0, 1), 6.0, 7.2, 0.2)


def test_a_plan_is_never_slower_than_the_whole() -> None:
    """9.9 allowed and 5% tolerated: what measures 10.1 keeps that, and yet is no gain."""
    best, tried = made(9.9).meet(lambda plan: ({(1, 0): 10.1, (0, 1): 9.5}.get(plan, 9.0), 0), lambda plan: None)
    assert tried[0].plan == (1, 0) and best.plan != (1, 0) and best.measured < 10


def test_what_cannot_be_reached_says_the_least() -> None:
    with pytest.raises(UnreachableError) as caught:
        made(2.0).meet(lambda plan: (3.0, 0), lambda plan: None)
    assert caught.value.seconds == 3.0 and caught.value.plan == (1, 1), "nothing was tried"
    with pytest.raises(UnreachableError) as caught:
        made(4.0).meet(lambda plan: (5.0, 0), lambda plan: None)
    assert caught.value.seconds == 5.0 and caught.value.plan == (1, 1)


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
    assert choose(found.losses, [Resource(one.fixed, one.costs, found.allowed) for one in found.latency.values()]) == (
        2,
    )
    assert why == [["it buys no measured time: 0.990 (0.970 to 1.010) of the whole", ""]]
    both = option("slow", 0.0, 0.99, 0.9, width=0.02)
    found, why = programme([[both, option("fast", 0.5, 0.6, 0.8)]], WHOLE, BlockBudget("0.995x"))
    best, _ = found.meet(lambda plan: (9e-4, 0), lambda plan: None)
    assert best.plan == (1,) and why == [["", ""]]


def test_size_is_a_limit_of_its_own() -> None:
    small, large = option("small", 0.5, 0.6, size=40), option("large", 0.1, 0.6, size=90)
    for budget, expected in ((BlockBudget("0.8x"), (2,)), (BlockBudget("0.8x", size="50 B"), (1,))):
        found, _ = programme([[small, large]], {ORT: WHOLE[ORT]}, budget)
        best, _ = found.meet(lambda plan: (6e-4, (100, 40, 90)[plan[0]]), lambda plan: None)
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
    ],
)
def test_a_budget_of_another_form_is_said(fields: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BlockBudget(**fields)
