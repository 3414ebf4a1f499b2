"""Distributions of layers: by hand, the weights of the layers, and which layers are drawn."""

import math

import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.layer_distribution import LayerDistribution, _drawn

EAST, NORTH = [2.0, 0.0], [0.0, 3.0]
BOTH, ONE = torch.tensor([EAST, NORTH]), torch.tensor([EAST, EAST])
APART = torch.tensor([0, 1])
P = math.e / (1 + math.e)  # softmax of (1, 0)


def test_numbers_worked_out_by_hand() -> None:
    """The teacher tells two samples apart, p = (P, 1 − P); to the student they are one, q = (1/2, 1/2)."""
    divergence = P * math.log(2 * P) + (1 - P) * math.log(2 * (1 - P))
    found = LayerDistribution(temperature=1.0)([ONE], [BOTH], labels=APART)
    assert found.item() == pytest.approx(divergence, rel=1e-6)


def test_good_layers_of_the_teacher_count_more() -> None:
    """The second layer sees no difference: p = (1/2, 1/2), as the student. Its samples are of two classes, so the layers' mean
    log-probabilities of the own class are log P and log 1/2, and the weights P and 1/2 over their sum. Of one class: equal.
    """
    divergence = P * math.log(2 * P) + (1 - P) * math.log(2 * (1 - P))
    loss = LayerDistribution(temperature=1.0)
    found = loss([ONE, ONE], [BOTH, ONE], labels=APART)
    assert found.item() == pytest.approx(P / (P + 0.5) * divergence, rel=1e-6)
    same = loss([ONE, ONE], [BOTH, ONE], labels=torch.zeros(2, dtype=torch.int64))
    assert same.item() == pytest.approx(divergence / 2, rel=1e-6)


def test_layers_are_drawn_in_order_from_torchs_generator() -> None:
    assert _drawn(3, 3) == [0, 1, 2]
    torch.manual_seed(0)
    draws = [_drawn(4, 2) for _ in range(40)]
    assert all(first < second for first, second in draws)
    assert {tuple(draw) for draw in draws} == {(a, b) for a in range(4) for b in range(a + 1, 4)}
    torch.manual_seed(0)
    assert [_drawn(4, 2) for _ in range(40)] == draws


def test_of_a_longer_list_as_many_are_drawn_as_the_shorter_has() -> None:
    """One layer of the student, two of the teacher, of which one is like it: sometimes 0, sometimes not."""
    torch.manual_seed(0)
    loss = LayerDistribution(temperature=1.0)
    found = {round(loss([ONE], [BOTH, ONE], labels=APART).item(), 4) for _ in range(20)}
    assert len(found) == 2 and 0.0 in found


def test_more_layers_than_are_named_are_refused() -> None:
    with pytest.raises(UserError, match="layers is 3, a network has 2 modules named"):
        LayerDistribution(student=("a", "b", "c"), teacher=("x", "y"), layers=3)
