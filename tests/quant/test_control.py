"""The fewest layers in float: against brute force, and on a network that a layer's outliers break."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import accuracy, tiny_context, tiny_data, tiny_saved, tiny_student
from torch import nn

from edgekd import registry
from edgekd.errors import UserError
from edgekd.quant.control import fewest
from edgekd.quant.precision import FLOAT
from edgekd.student import Student
from edgekd.training.train import logits_of

NAMES = [f"layer {i}" for i in range(6)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=6, max_size=6), st.integers(0, 30), st.permutations(NAMES))
def test_an_answer_is_within_and_none_of_it_can_be_put_back(costs: list[int], allowed: int, order: list[str]) -> None:
    cost = dict(zip(NAMES, costs, strict=True))
    asked: list[frozenset[str]] = []

    def within(floats: frozenset[str]) -> bool:
        asked.append(floats)
        return sum(c for name, c in cost.items() if name not in floats) <= allowed

    found = fewest(order, within)
    assert within(frozenset(found))
    assert not any(within(frozenset(found) - {name}) for name in found)
    asked = asked[: -1 - len(found)]
    assert len(asked) == len(set(asked))
    ranked = fewest(
        sorted(NAMES, key=lambda name: -cost[name]), within
    )  # by true sensitivity the answer is the best there is
    least = next(k for k in range(7) if any(within(frozenset(s)) for s in itertools.combinations(NAMES, k)))
    assert len(ranked) == least


def test_where_all_layers_are_needed_all_are_found() -> None:
    assert fewest(NAMES, lambda floats: len(floats) == 6) == NAMES


def test_a_single_layer_far_down_the_order_is_found() -> None:
    assert fewest(NAMES, lambda floats: "layer 1" in floats or {"layer 0", "layer 5"} <= floats) == ["layer 1"]


def outlier(seed: int = 0) -> nn.Module:
    """The tiny student, of whose block one channel carries values a thousand times those of the others, undone behind it."""
    network = tiny_student(seed=seed, trained=True)
    with torch.no_grad():
        network.block.bn1.weight[0] *= 3000
        network.block.bn1.bias[0] = 3000 * (network.block.bn1.bias[0].abs() + 1)
        network.block.conv2.weight[:, 0] = 0
    return network


def controlled(tmp_path: Path, **fields: object) -> tuple[Student, dict[str, object]]:
    student = tiny_saved(tmp_path / "before", trained=True)
    student = Student(student.path, tiny_student)
    from edgekd.student import write_tensors

    write_tensors(student.path / "weights.safetensors", outlier().state_dict())
    (tmp_path / "out").mkdir()
    stage = registry.build("stages", "quantize", fields)
    facts = stage.run(student, tiny_context(tmp_path), tmp_path / "out")
    return Student(tmp_path / "out", tiny_student), facts


def test_a_layer_that_breaks_quantization_is_named_and_left_in_float(tmp_path: Path) -> None:
    student, facts = controlled(tmp_path, max_drop=0.02)
    control = facts["control"]
    assert isinstance(control, dict)
    inputs, targets = tiny_data().validation
    expected = accuracy(logits_of(outlier().eval(), inputs).numpy(), targets.numpy())
    assert control["expected"] == pytest.approx(expected)
    assert control["before"] < expected - 0.1, "quantized whole it must be broken, or this tests nothing"
    assert control["after"] >= expected - 0.02
    assert control["reverted"] == ["block.conv2"]  # which reads the channel
    assert student.quantized is not None
    assert student.quantized["precision"]["layers"] == {"block.conv2": FLOAT}
    score = accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy())
    assert score >= expected - 0.02 - 0.011  # as the program, one sample for rounding
    rows = facts["sensitivity"]["layers"]
    assert max(rows, key=lambda row: row["loss"])["layer"] == "block.conv2"


def test_within_the_drop_no_layer_is_touched(tmp_path: Path) -> None:
    student = tiny_saved(tmp_path / "before", trained=True)
    (tmp_path / "out").mkdir()
    facts = registry.build("stages", "quantize", {"max_drop": 0.1}).run(
        student, tiny_context(tmp_path), tmp_path / "out"
    )
    assert facts["control"]["reverted"] == []
    assert facts["control"]["tried"] == 0


def test_there_is_a_plan_whatever_breaks(tmp_path: Path) -> None:
    """Two bits everywhere, and nothing may be lost: in the end all layers are in float, and with them all between."""
    _, facts = controlled(tmp_path, weights=2, activations=2, first_last=2, max_drop=0.0)
    assert facts["control"]["after"] >= facts["control"]["expected"]
    assert facts["control"]["before"] < facts["control"]["expected"] - 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"max_drop": -0.1},
        {"max_drop": 0.1, "sensitivity": 0},
        {"max_drop": 0.1, "reconstruction": "block"},
        {"max_drop": 0.1, "qat": {"losses": [{"use": "cross_entropy"}]}},
    ],
)
def test_wrong_fields(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="max_drop|quantize"):
        registry.build("stages", "quantize", fields)
