"""Each layer quantized alone: what is switched on for it, what it costs, and that nothing is left switched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quant.zoo import inputs, warm
from scipy.special import rel_entr, softmax
from torch import nn

from edgekd.quant import pt2e
from edgekd.quant.adapter import activations, in_float, weights
from edgekd.quant.grid import AFFINE, SYMMETRIC
from edgekd.quant.precision import Precision
from edgekd.quant.sensitivity import KL, SQUARED, loss, measure_of, rounded, sensitivities, units, weight_sensitivities


def calibrated(model: nn.Module, qat: bool = False) -> torch.fx.GraphModule:
    graph = pt2e.prepare(model, inputs(1), AFFINE, "minmax", qat)
    pt2e.calibrate(graph, [inputs(16)])
    graph.eval()
    return graph


def test_the_loss_is_the_divergence_of_class_scores_and_else_the_squared_error() -> None:
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(5, 4)).astype(np.float32) for _ in range(2))
    expected = rel_entr(softmax(b.astype(float), 1), softmax(a.astype(float), 1)).sum(1).mean()
    assert loss(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected)
    assert loss(torch.tensor(a), torch.tensor(a)) == 0
    image = torch.tensor([[[3.0, 4.0]]])
    assert loss(image + torch.tensor([0.0, 1.0]), image) == pytest.approx(1 / 25)
    assert (measure_of(torch.zeros(2, 4)), measure_of(torch.zeros(2, 1)), measure_of(image)) == (KL, SQUARED, SQUARED)


@pytest.mark.parametrize("name", ["residual", "mobile", "odd", "dense"])
def test_every_grid_and_every_weight_belongs_to_a_layer(name: str) -> None:
    graph = calibrated(warm(name))
    found = units(graph)
    assert {id(w) for unit in found for w in unit.weights} == {id(w) for w in weights(graph)}
    assert {id(g) for unit in found for g in unit.grids} == {id(g) for g in activations(graph)}


@pytest.mark.parametrize("qat", [False, True], ids=["ptq", "qat"])
def test_a_layer_alone_is_that_layer_rounded_and_no_other(qat: bool) -> None:
    """Against a graph in which the weight of one layer was rounded by hand, and the tensor that it reads."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 5)).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in (model[0], model[3]):
            module.reset_parameters()
    graph, x = calibrated(model, qat=qat), inputs(8, 3)
    found = sensitivities(graph, x)
    assert list(found) == ["0", "3"]
    with torch.no_grad():
        reference = model(x)
        middle = model[2](model[1](model[0](x)))
        read = next(g for unit in units(graph) if unit.name == "3" for g in unit.grids)
        scale, zero = read.grid
        held = torch.fake_quantize_per_tensor_affine(middle, scale, zero, -128, 127)
        by_hand = nn.functional.linear(held, rounded(model[3].weight, 8, AFFINE, search=False), model[3].bias)
    assert found["3"] == pytest.approx(loss(by_hand, reference), rel=1e-3)
    assert found["0"] > 0


def test_nothing_stays_switched_and_layers_together_are_the_whole() -> None:
    graph, x = calibrated(warm("residual")), inputs(8, 1)
    with torch.no_grad():
        before = graph(x)
        assert sum(sensitivities(graph, x).values()) > 0
        assert torch.equal(graph(x), before)
        with in_float(graph):
            for unit in units(graph):
                unit.round(True)
            assert torch.equal(graph(x), before)


def test_an_outlier_makes_its_layer_the_most_sensitive() -> None:
    """One channel of 5,000 that nothing listens to: what reads it loses its small values, no other layer anything."""
    model = warm("residual")
    norm, reader = model[4].first[1], model[4].second[0]
    norm.bias.data[0] = 5000
    reader.weight.data[:, 0] = 0
    found = sensitivities(calibrated(model), inputs(16, 1))
    assert max(found, key=lambda name: found[name]) == "4.second.0"


def test_fewer_bits_cost_more_and_the_weights_come_back() -> None:
    graph, x = calibrated(warm("residual")), inputs(16, 1)
    before = pt2e.state(graph)
    choices = {unit.name: [32, 8, 4, 2] for unit in units(graph)}
    found = weight_sensitivities(graph, x, choices, AFFINE, search=True)
    for losses in found.values():
        assert losses[0] == 0
        assert losses[1] < losses[2] < losses[3]
    assert all(torch.equal(value, before[name]) for name, value in pt2e.state(graph).items())


def test_a_weight_is_rounded_as_the_prepared_graph_rounds_it() -> None:
    model, x = warm("dense"), inputs(4)
    for bits, grid in ((8, AFFINE), (4, AFFINE), (3, SYMMETRIC)):
        precision = Precision(bits, 16, first_last=bits)
        graph = pt2e.prepare(model, inputs(1), grid, "minmax", False, precision)
        pt2e.calibrate(graph, [x])
        unit = units(graph)[1]
        held = graph.get_parameter(f"{unit.name}.weight")
        assert torch.allclose(unit.weights[0](held), rounded(held.detach(), bits, grid, search=False), atol=1e-7)
