"""A torch module as the teacher."""

import pytest
import torch
from tiny import TinyNet, tiny_data, tiny_student

from edgekd.errors import UserError
from edgekd.teachers.module import Module

INPUTS = tiny_data().train[0][:5]


def test_it_is_in_eval_mode_and_is_not_trained() -> None:
    teacher = Module(TinyNet(8, dropout=0.5).train())
    assert not any(module.training for module in teacher.network.modules())
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    logits = teacher.outputs(INPUTS)
    assert logits.shape == (5, 4)
    assert not logits.requires_grad
    assert torch.equal(logits, teacher.outputs(INPUTS))


def test_features_are_what_the_named_modules_give() -> None:
    network = tiny_student()
    logits, features = Module(network).features(INPUTS, ["stem", "block.conv1"])
    assert torch.equal(logits, network(INPUTS))
    stem = network.stem(INPUTS)
    assert torch.equal(features["stem"], stem)
    assert torch.equal(features["block.conv1"], network.block.conv1(stem))
    assert not any(x.requires_grad for x in features.values())
    assert not network.stem._forward_hooks


def test_a_wrong_name_is_said_with_the_nearest() -> None:
    with pytest.raises(UserError, match='the teacher has no module "blok"\nhint: did you mean "block"'):
        Module(tiny_student()).features(INPUTS, ["blok"])


def test_a_module_that_is_never_called_is_said() -> None:
    network = tiny_student()
    network.spare = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match='"spare" is not called'):
        Module(network).features(INPUTS, ["spare"])


def test_a_module_that_gives_no_tensor_is_said() -> None:
    network = torch.nn.Sequential(torch.nn.LSTM(4, 4))
    with pytest.raises(UserError, match='"0" gives a tuple, not a tensor'):
        Module(network).features(torch.zeros(1, 2, 4), ["0"])
