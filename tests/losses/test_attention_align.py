"""Attention aligned: by hand, heads in another order, and whom it refuses."""

import math

import pytest
import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.attention_align import AttentionAlign

LOSS = AttentionAlign(student="softmax", teacher="softmax")


def test_numbers_worked_out_by_hand() -> None:
    """One query, two keys: [1/2, 1/2] against [1/4, 3/4]. A second head that is alike halves the mean."""
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    teacher = torch.tensor([[[[0.0, math.log(3)]]]])
    assert LOSS(torch.zeros(1, 1, 1, 2), teacher).item() == pytest.approx(expected, rel=1e-6)
    two = torch.cat([teacher, torch.ones(1, 1, 1, 2)], 1)
    assert LOSS(torch.zeros(1, 2, 1, 2), two).item() == pytest.approx(expected / 2, rel=1e-6)


def test_the_projector_finds_heads_in_another_order() -> None:
    """Three of the teacher's heads are the student's two, exchanged, and their mean."""
    torch.manual_seed(0)
    student = torch.rand(2, 2, 4, 4).softmax(3)
    teacher = torch.stack([student[:, 1], student[:, 0], student.mean(1)], 1)
    projector = LOSS.projector(student, teacher)
    assert isinstance(projector, nn.Conv2d) and projector.bias is not None
    with torch.no_grad():
        projector.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])[:, :, None, None])
        projector.bias.zero_()
    assert LOSS(projector(student), teacher).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 12), (2, 2, 4, 5)])
def test_other_features_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match='attention_align: the student\'s "softmax" gives') as caught:
        LOSS.projector(torch.zeros(shape), torch.zeros(2, 3, 4, 4))
    assert "of as many tokens" in caught.value.hint
