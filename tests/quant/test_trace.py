"""A student as a graph."""

from __future__ import annotations

import pytest
import torch
from quant.zoo import ZOO, inputs, warm
from torch import nn

from edgekd.errors import UserError
from edgekd.quant.trace import set_training, trace


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # what a graph cannot hold
            return x
        return -x


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1, 784)


class Aliased(nn.Module):
    """x is read again after it was changed in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1.0
        y = x.relu_()
        return torch.sigmoid(y) + x


@pytest.mark.parametrize("name", ZOO)
def test_any_batch_and_no_in_place_operator(name: str) -> None:
    model = warm(name)
    graph = trace(model, inputs(1), train=False)
    with torch.no_grad():
        for batch in (1, 3):
            assert torch.allclose(graph(inputs(batch)), model(inputs(batch)), atol=1e-6)
    assert not [n for n in graph.graph.nodes if n.op == "call_function" and str(n.target).split(".")[-2].endswith("_")]


def test_what_reads_a_changed_tensor_reads_the_change() -> None:
    graph, x = trace(Aliased(), inputs(1), train=False), inputs(2)
    assert torch.equal(graph(x), Aliased()(x))


def test_a_branch_on_values_names_file_and_line() -> None:
    with pytest.raises(UserError, match=r"cannot be exported as a graph: .*test_trace\.py:\d+ \(in ") as error:
        trace(Branching(), inputs(1), train=False)
    assert "torch.where" in error.value.hint


def test_a_fixed_batch_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be exported as a graph: .*test_trace\.py:\d+"):
        trace(FixedBatch(), inputs(1), train=False)


def test_modes_of_dropout_and_batch_norm() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5)).train()
    graph, x = trace(model, inputs(1), train=True), inputs(8) * 3 + 1
    names = dict(graph.named_buffers())
    before = names["0.running_mean"].clone()
    set_training(graph, False)
    assert torch.equal(graph(x), graph(x))
    assert torch.equal(names["0.running_mean"], before)
    set_training(graph, True)
    assert (graph(x) == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(names["0.running_mean"], before)
    assert torch.equal(model[0].running_mean, torch.zeros(1))  # the user's own module is untouched
