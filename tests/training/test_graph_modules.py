"""Modules in a graph of operators: their names, what they give, rounded and not, and what cannot be had."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_data, tiny_student
from torch import nn
from torch.fx import GraphModule

from edgekd.errors import UserError
from edgekd.quant.adapter import in_float
from edgekd.quant.grid import AFFINE
from edgekd.quant.pt2e import calibrate, prepare
from edgekd.training.features import capture, shapes
from edgekd.training.graph_modules import outputs_of, traced
from edgekd.training.partway import untouched, upto

INPUTS = tiny_data().train[0][:6]


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    prepared = prepare(tiny_student(trained=True).eval(), INPUTS[:2], AFFINE, "minmax", qat=True)
    calibrate(prepared, [INPUTS])
    prepared.eval()
    return prepared


def test_they_are_those_of_the_student_and_give_what_its_modules_give(graph: GraphModule) -> None:
    student = tiny_student(trained=True).eval()
    expected = shapes(student, INPUTS, "student")
    assert traced(graph) and not traced(student)
    assert list(shapes(graph, INPUTS, "student").items()) == list(expected.items())
    names = ["stem.0", "stem", "block.conv1", "block.bn2", "block.relu", "block", "down.2", "head"]
    with capture(student, names, "student") as theirs:
        answer = student(INPUTS)
    with in_float(graph), capture(graph, names, "student") as ours:
        torch.testing.assert_close(graph(INPUTS), answer)
    assert list(ours) == ["stem.0", "stem", "block.conv1", "block.relu", "block.bn2", "block", "down.2", "head"]
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-4)


def test_what_is_on_a_grid_is_rounded_and_gradients_flow_through_it(graph: GraphModule) -> None:
    with capture(graph, ["block", "stem.0"], "student") as caught:
        outputs = graph(INPUTS)
    steps = caught["block"].unique().diff()
    assert torch.allclose(steps / steps.min(), (steps / steps.min()).round(), atol=1e-2) and len(steps) < 256
    assert len(caught["stem.0"].unique()) > 1000  # within a unit of convolution, batch norm and ReLU nothing is rounded
    assert torch.equal(outputs, graph(INPUTS))  # by its own code again
    caught["block"].square().sum().backward()
    assert graph.get_parameter("stem.0.weight").grad.abs().sum() > 0
    assert graph.get_parameter("down.0.weight").grad is None
    graph.zero_grad()


def test_up_to_one_statistics_are_left_alone(graph: GraphModule) -> None:
    graph.train()
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    with untouched(graph), capture(graph, ["block"], "student") as caught:
        graph(INPUTS)
    with untouched(graph):
        assert torch.equal(upto(graph, ["block"], INPUTS, "student")["block"], caught["block"])
    graph.eval()
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items() if "minimum" not in name)


class Odd(nn.Module):
    """A module that gives two tensors, one that gives what it is given, and one that is called twice."""

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x * 2

    def __init__(self) -> None:
        super().__init__()
        self.two, self.same, self.layer = self.Two(), nn.Identity(), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.two(self.same(self.layer(x)))
        return self.layer(first * second)


def test_of_two_calls_the_first_counts_and_what_gives_no_tensor_of_its_own_is_not_there() -> None:
    network, x = Odd().eval(), torch.randn(4, 3)
    graph = torch.export.export(network, (x,)).module(check_guards=False)
    assert isinstance(graph, GraphModule)
    assert list(outputs_of(graph)) == ["layer"]
    with capture(graph, ["layer"], "student") as caught:
        graph(x)
    torch.testing.assert_close(caught["layer"], network.layer(x))
    for name in ("two", "same"):
        with (
            pytest.raises(UserError, match=f'no module in its graph that computes one tensor and is "{name}"'),
            capture(graph, [name], "student"),
        ):
            graph(x)
