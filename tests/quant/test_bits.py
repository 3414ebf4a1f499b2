"""Bits under a budget: the programme against every plan there is, bytes against packed arrays, and the stage end to end."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import accuracy, tiny_context, tiny_data, tiny_saved, tiny_student

from edgekd import registry
from edgekd.errors import UserError
from edgekd.quant.bits import Bits, Layer, SizeBudget, allocate, planned, weight_bytes
from edgekd.student import Student
from edgekd.training.train import logits_of

ROWS = st.lists(
    st.tuples(st.lists(st.floats(0, 10), min_size=3, max_size=3), st.lists(st.integers(1, 5000), min_size=3, max_size=3)),
    min_size=1,
    max_size=5,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(0, 1))
def test_the_programme_finds_what_trying_every_plan_finds(
    rows: list[tuple[list[float], list[int]]], share: float
) -> None:
    losses, costs = [row[0] for row in rows], [row[1] for row in rows]
    least, most = (sum(end(cost) for cost in costs) for end in (min, max))
    budget = round(least + share * (most - least))
    plans = [
        (
            sum(loss[i] for loss, i in zip(losses, plan, strict=True)),
            sum(c[i] for c, i in zip(costs, plan, strict=True)),
        )
        for plan in itertools.product(range(3), repeat=len(rows))
    ]
    best = min(loss for loss, cost in plans if cost <= budget)
    found = allocate(losses, costs, budget)
    assert sum(cost[i] for cost, i in zip(costs, found, strict=True)) <= budget
    assert sum(loss[i] for loss, i in zip(losses, found, strict=True)) == pytest.approx(best, abs=1e-7)


def test_a_plan_by_hand() -> None:
    """30 + 30 bytes at 8 bits, 40 allowed: the layer that loses 0.1 at 2 bits (10 bytes) gives way, not the one that loses 0.5."""
    layers = [
        Layer("a", 20, (8, 2), (30, 10), (0.001, 0.5)),
        Layer("b", 20, (8, 2), (30, 10), (0.002, 0.1)),
    ]
    plan, facts = planned(layers, SizeBudget("40 B"))
    assert plan == {"a": 8, "b": 2}
    assert (facts["bytes"], facts["least"], facts["most"]) == (40, 20, 60)
    assert facts["loss"] == pytest.approx(0.101)
    with pytest.raises(UserError, match="the least that the choices allow is 20 B"):
        planned(layers, SizeBudget("19 B"))
    with pytest.raises(UserError, match="asks for nothing"):
        planned(layers, SizeBudget("60 B"))


@given(st.integers(1, 9), st.integers(1, 20), st.sampled_from([2, 3, 4, 5, 8]))
def test_bytes_are_those_of_packed_weights(channels: int, each: int, bits: int) -> None:
    """numpy packs the bits; scales are float32, a zero point is a byte, a bias is four."""
    values = np.random.default_rng(0).integers(0, 2**bits, (channels, each), np.uint8)
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :])
    extra = np.zeros(channels, np.float32).nbytes
    assert weight_bytes((channels, each), bits, affine=False, biased=False) == packed.nbytes + extra
    assert weight_bytes((channels, each), bits, affine=True, biased=True) == packed.nbytes + 2 * extra + channels


@pytest.mark.parametrize(
    "choices",
    [[8], [8, 8], [8, 1], [16, 8], []],
)
def test_choices_that_are_none(choices: list[int]) -> None:
    with pytest.raises(UserError, match="bits.choices"):
        Bits(SizeBudget("1 kB"), tuple(choices))


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": {"choices": [8, 4]}},
        {"bits": {"budget": {"size": "small"}}},
        {"bits": {"budget": {"size": "1 kB", "weight": 1}}},
        {"bits": {"budget": {"size": "1 kB"}}, "weights": 4},
        {"bits": {"budget": {"size": "1 kB"}}, "max_drop": 0.1},
    ],
)
def test_wrong_fields(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="quantize"):
        registry.build("stages", "quantize", fields)


def quantized(tmp_path: Path, **fields: object) -> tuple[Student, dict[str, object]]:
    student = tiny_saved(tmp_path / "before", trained=True)
    (tmp_path / "out").mkdir()
    stage = registry.build("stages", "quantize", fields)
    return Student(tmp_path / "out", tiny_student), stage.run(student, tiny_context(tmp_path), tmp_path / "out")


def test_a_student_under_a_budget_keeps_it_and_is_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student, facts = quantized(tmp_path, bits={"budget": {"size": "2.2 kB"}, "choices": [8, 4, 2]})
    plan = facts["bits"]
    assert isinstance(plan, dict)
    assert plan["bytes"] <= 2200 < plan["most"]
    assert student.quantized is not None
    bits = {row["layer"]: row["bits"] for row in plan["layers"]}
    assert student.quantized["precision"]["layers"] == bits
    assert bits["stem.0"] == bits["head"] == 8
    assert set(bits.values()) > {8}
    levels = {name: len(value.unique()) for name, value in student.module().state_dict().items() if value.ndim == 4}
    assert max(levels.values()) > 16 >= min(levels.values())
    assert {row["layer"]: row["bits"] for row in facts["sensitivity"]["layers"]} == bits
    inputs, targets = tiny_data().validation
    assert accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy()) > 0.7


def test_float_may_be_a_choice_and_has_kernels() -> None:
    stage = registry.build("stages", "quantize", {"bits": {"budget": {"size": "4 kB"}, "choices": [32, 8]}})
    assert stage.precision == "int8"
    stage = registry.build("stages", "quantize", {"bits": {"budget": {"size": "4 kB"}}})
    assert stage.precision == "W2-8A8"
