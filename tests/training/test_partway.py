"""Networks run in part: what is computed, what is put in, and what is forgotten."""

import pytest
import torch
from tiny import TinyNet, tiny_data, tiny_student
from torch import nn

from edgekd.adapted import Adapted
from edgekd.errors import UserError
from edgekd.teachers.function import Function
from edgekd.teachers.module import Module
from edgekd.training.partway import onwards, untouched, upto

INPUTS = tiny_data().train[0][:4]


class Twice(nn.Module):
    """It looks at its input and at its mirror image by the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.body(x), self.body(-x)], 1)


def test_up_to_a_module_nothing_behind_it_is_computed() -> None:
    network, called = tiny_student().eval(), []
    network.down.register_forward_hook(lambda *_: called.append("down"))
    found = upto(network, ["block", "stem"], INPUTS, "student")
    assert torch.equal(found["stem"], network.stem(INPUTS))
    assert torch.equal(found["block"], network.block(found["stem"])), "whichever of several is named last"
    assert not called
    network(INPUTS)
    assert called == ["down"]  # and nothing of it is left
    with pytest.raises(UserError, match='the student has no module "blok"\nhint: did you mean "block"'):
        upto(network, ["blok"], INPUTS, "student")


def test_onwards_the_first_call_gives_what_is_put_in() -> None:
    network, x = Twice(), torch.randn(5, 3)
    features = torch.randn(5, 2, requires_grad=True)
    found = onwards(network, "body", x, features, "teacher")
    torch.testing.assert_close(found, torch.cat([features, network.body(-x)], 1))
    found[:, :2].sum().backward()
    assert torch.equal(features.grad, torch.ones(5, 2))
    torch.testing.assert_close(network(x), torch.cat([network.body(x), network.body(-x)], 1))


def test_running_statistics_are_as_before_and_gradients_still_flow() -> None:
    network = TinyNet().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with untouched(network):
        outputs = network(INPUTS)
        assert not torch.equal(network.stem[1].running_mean, before["stem.1.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    outputs.square().sum().backward()
    assert network.stem[0].weight.grad.abs().sum() > 0


def test_a_teacher_runs_in_part_and_a_black_box_does_not() -> None:
    network = tiny_student(16, 7)
    found = Adapted(Module(network), resize=(12, 12)).partial(INPUTS, ["block"])["block"]
    assert torch.equal(found, network.block(network.stem(INPUTS)))
    assert not found.requires_grad
    with pytest.raises(UserError, match="a Function gives logits only"):
        Function(lambda x: x).partial(INPUTS, ["block"])
