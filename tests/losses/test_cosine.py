"""Directions: by hand, and when they are projected."""

import math

import pytest
import torch
from torch import nn

from edgekd.losses.cosine import Cosine

LOSS = Cosine(student="block", teacher="layer")


def test_numbers_worked_out_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, -5.0]])
    assert LOSS(student, teacher).item() == pytest.approx(1 - (math.sqrt(0.5) - 1) / 2, rel=1e-6)
    tokens = torch.tensor([[[0.0, 2.0], [2.0, 0.0]]])  # their mean is [1, 1]
    assert LOSS(torch.tensor([[3.0, 0.0]]), tokens).item() == pytest.approx(1 - math.sqrt(0.5), rel=1e-6)


def test_only_other_widths_are_projected() -> None:
    maps = torch.randn(2, 3, 4, 4)
    assert not list(LOSS.projector(maps, torch.zeros(2, 3)).parameters())
    torch.testing.assert_close(LOSS.projector(maps, torch.zeros(2, 3))(maps), maps.mean((2, 3)))
    projector = LOSS.projector(maps, torch.zeros(2, 7))
    assert isinstance(projector[1], nn.Linear)  # type: ignore[index]
    assert projector(maps).shape == (2, 7)
