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
from edgekd.errors import EdgekdError, UserError
from edgekd.quant.control import fewest
from edgekd.quant.grid import AFFINE
from edgekd.quant.layerwise import leave_in_float
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.pt2e import calibrate, prepare
from edgekd.quant.sensitivity import float_weights, put_back, units, weight_of
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
        {"max_drop": 0.1, "bits": {"budget": {"size": "1 kB"}}},
    ],
)
def test_wrong_fields(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="max_drop|quantize"):
        registry.build("stages", "quantize", fields)


@pytest.mark.parametrize("use", ["adaround", "block"])
def test_with_reconstruction_the_layer_is_found_and_the_rest_is_reconstructed_around_it(
    tmp_path: Path, use: str
) -> None:
    student, facts = controlled(tmp_path, max_drop=0.02, reconstruction={"use": use, "iterations": 20})
    control, inputs, targets = facts["control"], *tiny_data().validation
    assert isinstance(control, dict)
    assert control["before"] < control["expected"] - 0.1, "rounding alone must not help, or this tests nothing"
    assert control["after"] >= control["expected"] - 0.02
    assert control["reverted"] == ["block.conv2"]
    learned = {layer for part in facts["reconstruction"] for layer in part["layers"]}  # type: ignore[attr-defined]
    assert learned == {"stem.0", "block.conv1", "down.0", "head"}
    assert facts["reconstructed"] == control["after"]
    assert student.quantized is not None and student.quantized["precision"]["layers"] == {"block.conv2": FLOAT}
    score = accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy())
    assert score == pytest.approx(control["after"], abs=0.021)


def test_with_training_the_layer_is_found_and_the_rest_is_trained_around_it(tmp_path: Path) -> None:
    qat = {"epochs": 1, "lr": 1e-6, "losses": [{"use": "cross_entropy"}]}
    student, facts = controlled(tmp_path, max_drop=0.02, qat=qat)
    control, (inputs, targets) = facts["control"], tiny_data().validation
    assert isinstance(control, dict)
    assert control["before"] < control["expected"] - 0.1, "training so little must not help, or this tests nothing"
    assert control["after"] >= control["expected"] - 0.02
    assert "block.conv2" in control["reverted"]
    assert facts["qat"]["epochs"][-1]["validation"] == pytest.approx(control["after"])  # type: ignore[index]
    score = accuracy(logits_of(student.module(), inputs).numpy(), targets.numpy())
    assert score == pytest.approx(control["after"], abs=0.031)


def test_a_guess_that_was_too_good_is_followed_by_the_next_most_sensitive(tmp_path: Path) -> None:
    """Guessed, a alone is enough; made anew, it takes c as well: one more is tried, then two more."""
    rows = [{"layer": name, "loss": loss} for name, loss in (("a", 4.0), ("d", 1.0), ("b", 3.0), ("c", 2.0))]
    asked: list[frozenset[str]] = []

    def anew(layers: frozenset[str]) -> float:
        asked.append(layers)
        return 0.9 if {"a", "c"} <= layers else 0.5

    kept, facts = leave_in_float(
        {"layers": rows}, 0.5, 0.9, 0.01, anew, lambda layers: 0.9 if "a" in layers else 0.4, tiny_context(tmp_path)
    )
    assert asked == [{"a"}, {"a", "b"}, {"a", "b", "c", "d"}]
    assert kept == {"a", "b", "c", "d"}
    assert (facts["before"], facts["after"]) == (0.5, 0.9)
    with pytest.raises(EdgekdError, match="with every layer in float the metric is 0.5"):
        leave_in_float({"layers": rows}, 0.5, 0.9, 0.0, lambda _: 0.5, lambda _: 0.9, tiny_context(tmp_path))


def test_layers_put_back_compute_in_float_for_a_while(tmp_path: Path) -> None:
    """All of them put back, a graph whose weights were rounded is the float network; afterwards it is what it was."""
    network, inputs = tiny_student(trained=True).eval(), tiny_data().validation[0]
    graph = prepare(network, inputs[:2], AFFINE, "minmax", qat=False, precision=Precision(2, 4, stored=True))
    calibrate(graph, [inputs])
    graph.eval()
    floats = float_weights(graph)
    with torch.no_grad():
        for unit in units(graph):
            weight = weight_of(graph, unit)
            weight.copy_(unit.weights[0](weight))
        before = graph(inputs)
        with put_back(graph, list(floats), floats):
            assert torch.allclose(graph(inputs), network(inputs), atol=1e-4)
        with put_back(graph, ["block.conv2"], floats):
            one = graph(inputs)
        assert torch.equal(graph(inputs), before)
        reference = network(inputs)
        assert (one - reference).square().mean() != (before - reference).square().mean()
