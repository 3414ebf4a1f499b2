"""The branch to classes: by hand, its limit, and which branch it makes."""

import math

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from edgekd.losses.ofa import Ofa

TEACHER = torch.tensor([[0.0, math.log(3)]])  # [1/4, 3/4]
BRANCH = torch.zeros(1, 2)


def test_numbers_worked_out_by_hand() -> None:
    """Label 1, γ = 2: (1/4)² for the other class, (7/4)² − 1 for the label's, each times log 2."""
    expected = (0.25**2 + 1.75**2 - 1) * math.log(2)
    assert Ofa(power=2.0)(BRANCH, TEACHER, labels=torch.tensor([1])).item() == pytest.approx(expected, rel=1e-6)
    wrong = (1.25**2 - 1 + 0.75**2) * math.log(2)
    assert Ofa(power=2.0)(BRANCH, TEACHER, labels=torch.tensor([0])).item() == pytest.approx(wrong, rel=1e-6)


def test_at_the_power_one_it_is_cross_entropy_with_the_teacher() -> None:
    torch.manual_seed(0)
    branch, teacher = torch.randn(2, 5, 4)
    p = softmax(teacher / 2, 1)
    entropy = -(p * p.log()).sum(1).mean()
    divergence = kl_div(log_softmax(branch / 2, 1), p, reduction="batchmean")
    found = Ofa(power=1.0, temperature=2.0)(branch, teacher, labels=torch.arange(5) % 4)
    torch.testing.assert_close(found, divergence + entropy)


@pytest.mark.parametrize("shape", [(2, 6, 5, 5), (2, 7, 6), (2, 6)])
def test_a_branch_leads_from_any_features_to_the_classes(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape)
    branch = Ofa(student="block").projector(features, torch.zeros(2, 10))
    assert branch(features).shape == (2, 10)
