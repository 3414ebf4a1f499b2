"""Auxiliary heads: by hand, whom they ask, and who learns."""

import math

import pytest
import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.auxiliary_heads import AuxiliaryHeads
from edgekd.stage import taught, uses


class Says(nn.Module):
    """A head that sees (1, 3) and says even odds, whatever it is given."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)


def test_numbers_worked_out_by_hand() -> None:
    """CE = log 2. The student says p = (1/4, 3/4) at temperature 2: KL = 1/4 log(1/2) + 3/4 log(3/2). F = (2, 5): (1 + 4) / 2."""
    loss = AuxiliaryHeads(alpha=0.25, hint=0.1, temperature=2.0)
    own, deepest = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([[2.0, 5.0]])
    found = loss([torch.zeros(1, 3), deepest], torch.tensor([1]), own=own, classifiers=nn.ModuleList([Says()]))
    divergence = math.log(0.5) / 4 + 3 * math.log(1.5) / 4
    assert found.item() == pytest.approx(0.75 * math.log(2) + 0.25 * 4 * divergence + 0.1 * 2.5, rel=1e-6)


def test_the_last_layer_and_the_students_answer_teach_but_do_not_learn() -> None:
    torch.manual_seed(0)
    features = [
        torch.randn(4, 3, 6, 6, requires_grad=True),
        torch.randn(4, 7, 3, requires_grad=True),
        torch.randn(4, 5, requires_grad=True),
    ]
    own = torch.randn(4, 2, requires_grad=True)
    loss = AuxiliaryHeads()
    heads = loss.classifiers(features, torch.arange(4) % 2, 2)
    assert len(heads) == 2
    loss(features, torch.arange(4) % 2, own=own, classifiers=heads).backward()
    assert features[0].grad.abs().sum() > 0 and features[1].grad.abs().sum() > 0
    assert features[2].grad is None and own.grad is None


def test_it_needs_no_teacher_and_two_modules() -> None:
    assert not taught(uses([{"use": "auxiliary_heads"}, {"use": "cross_entropy"}], "losses"))
    with pytest.raises(UserError, match='student names "block" alone\nhint: two modules or more'):
        AuxiliaryHeads(student=("block",))
