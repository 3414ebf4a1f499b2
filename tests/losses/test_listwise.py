"""Lists: by hand, and that only the order of likeness matters, not widths or lengths."""

import math

import pytest
import torch

from edgekd.losses.listwise import Listwise


def test_numbers_worked_out_by_hand() -> None:
    """Two samples, alike to the teacher (cosine 1: P = [1/2, 1/2]), at right angles to the student (Q ∝ [e, 1])."""
    teacher, student = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    q = math.e / (math.e + 1)
    expected = 0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1 - q))
    assert Listwise(temperature=1.0)(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_what_turns_stretches_or_widens_all_features_alike_loses_nothing() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(5, 3)
    turn, _ = torch.linalg.qr(torch.randn(7, 3))
    assert Listwise()(2.5 * teacher @ turn.T, teacher).item() == pytest.approx(0, abs=1e-6)
    assert Listwise()(torch.randn(5, 3), teacher).item() > 0.1
