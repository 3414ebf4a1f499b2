"""Widths below and above 8 bits: which tensors get them, and that 8 by 8 is what it was."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from quant.zoo import inputs, warm
from torch.fx import GraphModule

from edgekd.errors import UserError
from edgekd.observers.minmax import MinMax
from edgekd.observers.mse import Mse
from edgekd.quant import pt2e
from edgekd.quant.adapter import ActivationGrid, activations
from edgekd.quant.blocks import weight_step
from edgekd.quant.grid import AFFINE, SYMMETRIC, Grid
from edgekd.quant.precision import FLOAT, Precision
from edgekd.quant.quantizer import WEIGHTED, layer_name


def prepared(name: str, precision: Precision, grid: Grid = AFFINE, qat: bool = False) -> GraphModule:
    graph = pt2e.prepare(warm(name), inputs(1), grid, "mse", qat, precision)
    pt2e.calibrate(graph, [inputs(16)])
    graph.eval()
    return graph


def weight_levels(graph: GraphModule) -> dict[str, int]:
    """How many integers each layer's weight has."""
    found = {}
    for node in graph.graph.nodes:
        if node.target in WEIGHTED and (step := weight_step(graph, node)) is not None:
            found[layer_name(node)] = step.quant_max - step.quant_min + 1
    return found


def activation_levels(graph: GraphModule) -> dict[str, int]:
    """How many integers the activation behind each operator has."""
    adapters = {n.args[0].name: graph.get_submodule(n.target) for n in graph.graph.nodes if n.op == "call_module"}
    return {k: v.quant_max - v.quant_min + 1 for k, v in adapters.items() if isinstance(v, ActivationGrid)}


def test_the_first_and_the_last_layer_keep_eight_bits_with_what_they_read() -> None:
    graph = prepared("residual", Precision(4, 3))
    assert weight_levels(graph) == {
        "0.0": 255, "2.first.0": 16, "2.second.0": 16, "3.0": 16, "4.first.0": 16, "4.second.0": 16, "6": 255
    }  # fmt: skip
    levels = activation_levels(graph)
    assert {name for name, count in levels.items() if count == 256} == {
        "input_1", "mean",  # what the first and the last layer read
        "conv2d_2", "conv2d_5", "relu_5",  # branches that are only added, a sum that is only averaged
    }  # fmt: skip
    assert set(levels.values()) == {8, 256}


def test_each_branch_has_a_first_layer_and_pooling_keeps_its_inputs_width() -> None:
    pooled = activation_levels(prepared("residual", Precision(4, 3)))
    assert pooled["relu"] == pooled["max_pool2d"] == 8  # a layer reads what was pooled
    assert weight_levels(prepared("odd", Precision(2, 4))) == {"a": 255, "b": 255, "c.0": 4, "gate": 4, "head": 255}
    assert activation_levels(prepared("mobile", Precision(4, 4)))["amax"] == 256
    assert activation_levels(prepared("mobile", Precision(4, 4)))["add"] == 256  # the maximum has its input's grid


def test_widths_of_single_layers() -> None:
    layers = {"4.first.0": 2, "6": FLOAT}
    graph = prepared("residual", Precision(4, 8, layers=layers))
    levels = weight_levels(graph)
    assert (levels["4.first.0"], levels["4.second.0"]) == (4, 16)
    assert "6" not in levels
    assert "mean" not in activation_levels(graph)  # only a layer in float reads it


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r'no layer "4.frist.0"') as error:
        prepared("residual", Precision(layers={"4.frist.0": 4}))
    assert "4.first.0" in error.value.hint


def test_symmetric_grids_have_symmetric_weights() -> None:
    assert weight_levels(prepared("residual", Precision(4, 4), SYMMETRIC))["3.0"] == 15


@pytest.mark.parametrize(
    "precision", [Precision(4, 4), Precision(2, 8), Precision(8, 16), Precision(8, 8, stored=True)]
)
@pytest.mark.parametrize("qat", [False, True], ids=["ptq", "qat"])
def test_the_program_computes_what_the_prepared_graph_does(precision: Precision, qat: bool) -> None:
    graph, x = prepared("residual", precision, qat=qat), inputs(6, 1)
    program = pt2e.convert(graph)
    with torch.no_grad():
        expected, found = graph(x), program(x)
    assert (found - expected).abs().max() < 0.1 * expected.std()
    held = [value for value in program.state_dict().values() if value.ndim > 1]
    assert {value.dtype for value in held} == {torch.int8}
    counts = [len(value.unique()) for value in held]
    assert sum(count > 2**precision.weights for count in counts) <= 2  # the first and the last layer


def test_it_is_restored_to_the_bit() -> None:
    graph, x = prepared("residual", Precision(3, 4), qat=True), inputs(4)
    fresh = pt2e.prepare(warm("residual", seed=1), inputs(1), AFFINE, "mse", True, Precision(3, 4))
    pt2e.restore(fresh, pt2e.state(graph))
    fresh.eval()
    assert torch.equal(pt2e.convert(fresh)(x), pt2e.convert(graph)(x))


def test_sixteen_bits_round_next_to_nothing() -> None:
    model, x = warm("residual"), inputs(16)
    wide, narrow = prepared("residual", Precision(8, 16)), prepared("residual", Precision(8, 8))
    with torch.no_grad():
        gaps = [float((graph(x) - model(x)).square().mean()) for graph in (wide, narrow)]
    assert gaps[0] < gaps[1]
    assert {type(adapter.factory()) for adapter in activations(wide)} == {MinMax}
    assert {type(adapter.factory()) for adapter in activations(narrow)} == {Mse}


def test_stored_steps_of_eight_bits_are_the_measured_ones() -> None:
    x = inputs(8)
    with torch.no_grad():
        stored, measured = (prepared("odd", Precision(stored=flag))(x) for flag in (True, False))
    assert torch.equal(stored, measured)


def test_an_observer_is_told_its_levels() -> None:
    for observer in (Mse, partial(Mse, bins=512)):
        graph = pt2e.prepare(warm("dense"), inputs(1), AFFINE, observer, False, Precision(4, 4, first_last=4))
        assert {adapter.factory().levels for adapter in activations(graph)} == {16}


def test_precision_survives_json() -> None:
    one = Precision(4, 4, 6, {"a": 2}, stored=True)
    assert Precision.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    ("precision", "simulated", "name"),
    [
        (Precision(), False, "int8"),
        (Precision(layers={"a": FLOAT}), False, "int8"),
        (Precision(first_last=4), False, "int8"),
        (Precision(layers={"a": 4}), True, "W4-8A8"),
        (Precision(4, 8), True, "W4A8"),
        (Precision(8, 16), True, "W8A16"),
        (Precision(2, 4, 2), True, "W2A4"),
    ],
)
def test_what_no_runtime_has_kernels_for_is_simulated(precision: Precision, simulated: bool, name: str) -> None:
    assert (precision.simulated, precision.name) == (simulated, name)
