"""Folding keeps what the network computes; biases land on the accumulator's grid."""

from __future__ import annotations

import pytest
import torch
from quant.zoo import inputs, warm
from torch import nn

from edgekd.quant import pt2e
from edgekd.quant.fold import fold_batch_norm
from edgekd.quant.grid import AFFINE
from edgekd.quant.precision import Precision
from edgekd.quant.quantizer import BATCH_NORM
from edgekd.quant.trace import trace


class Shared(nn.Module):
    """One convolution used twice, each time with a batch norm of its own; one without γ and β."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.one, self.two = nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, eps=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(self.conv(x)) - self.two(self.conv(x * 2))


def statistics(model: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=draw))
        norm.running_var.copy_(torch.rand(norm.num_features, generator=draw) + 0.2)
        if norm.weight is not None:
            norm.weight.data = torch.tensor([-1.5, 0.0, 1e-7, 2.0])  # negative, dead, nearly dead
            norm.bias.data = torch.randn(4, generator=draw)
    return model.eval()


@pytest.mark.parametrize("name", ["residual", "odd", "dense", "shared"])
def test_the_folded_graph_computes_the_same(name: str) -> None:
    model = statistics(Shared()) if name == "shared" else warm(name)
    graph, x = trace(model, inputs(1), train=False), inputs(5)
    fold_batch_norm(graph)
    assert not [node for node in graph.graph.nodes if node.target is BATCH_NORM]
    with torch.no_grad():
        assert torch.allclose(graph(x), model(x), atol=2e-5)


def test_a_batch_norm_behind_no_layer_stays() -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1)).eval()
    graph = trace(model, inputs(1), train=False)
    fold_batch_norm(graph)
    assert [node.target for node in graph.graph.nodes].count(BATCH_NORM) == 1


def test_folding_keeps_every_integer_of_a_trained_weight() -> None:
    """max |w| / 127 of a channel scales with the channel: QAT on w, conversion of w · γ / σ, the same integers."""
    model = statistics(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)))
    prepared = pt2e.prepare(model, inputs(1), AFFINE, "minmax", qat=True)
    pt2e.calibrate(prepared, [inputs(4)])
    weight = model[0].weight.detach()
    expected = torch.round(weight / (weight.abs().amax((1, 2, 3), keepdim=True) / 127))
    found = next(v for v in pt2e.convert(prepared).state_dict().values() if v.dtype == torch.int8 and v.ndim == 4)
    assert torch.equal(found[0].float(), -expected[0])  # γ < 0
    assert torch.equal(found[3].float(), expected[3])
    assert not found[1].any()  # γ = 0


def test_biases_are_multiples_of_the_accumulators_step_and_fit() -> None:
    model = statistics(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
    prepared = pt2e.prepare(model, inputs(1), AFFINE, "minmax", qat=False)
    pt2e.calibrate(prepared, [inputs(4)])
    program = pt2e.convert(prepared)
    held = program.state_dict()
    weights = next(v for k, v in held.items() if "scale" in k)
    quantize = next(n for n in program.graph.nodes if "quantize_per_tensor" in str(n.target))
    steps = held["conv2d_bias"].double() / (weights.double() * quantize.args[1])
    assert torch.allclose(steps, steps.round(), rtol=1e-6, atol=1e-3)
    assert steps.abs().max() <= 2**30 * 1.001
    with torch.no_grad():
        gap = (program(inputs(3)) - model(inputs(3))).abs().amax((0, 2, 3))
    assert gap.max() < 0.2
    assert gap[1:3].max() < 0.03  # γ = 0 and γ = 10⁻⁷: the channel is its bias, within half an output step


@pytest.mark.parametrize("precision", [Precision(), Precision(4, 8, first_last=4), Precision(stored=True)])
def test_a_layer_used_twice_is_folded_with_each_of_its_batch_norms(precision: Precision) -> None:
    """In training both uses read one fake-quantized weight; converted, each has its own integers and its own scales."""
    prepared = pt2e.prepare(statistics(Shared()), inputs(1), AFFINE, "minmax", True, precision)
    pt2e.calibrate(prepared, [inputs(16)])
    prepared.eval()
    program, x = pt2e.convert(prepared), inputs(6, 1)
    with torch.no_grad():
        expected, found = prepared(x), program(x)
    assert (found - expected).abs().max() < 0.02 * (expected.max() - expected.min())
    weights = [value for value in program.state_dict().values() if value.dtype == torch.int8 and value.ndim == 4]
    assert len(weights) == 2
    with torch.no_grad():
        assert torch.equal(prepared(x), expected)  # converting leaves what goes on training as it was
