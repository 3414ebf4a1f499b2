"""Cross-entropy and its smoothing, by hand."""

import math

import pytest
import torch

from edgekd import registry
from edgekd.errors import UserError
from edgekd.losses.cross_entropy import CrossEntropy

# softmax([0, ln 3]) = [1/4, 3/4]
LOGITS = torch.tensor([[0.0, math.log(3)]])


def test_a_number_worked_out_by_hand() -> None:
    assert CrossEntropy()(LOGITS, torch.tensor([1])).item() == pytest.approx(-math.log(0.75), rel=1e-6)


def test_smoothing_spreads_epsilon_over_all_classes() -> None:
    expected = -(0.1 * math.log(0.25) + 0.9 * math.log(0.75))  # ε = 0.2: the target is [0.1, 0.9]
    assert CrossEntropy(label_smoothing=0.2)(LOGITS, torch.tensor([1])).item() == pytest.approx(expected, rel=1e-6)


def test_it_is_the_mean_over_the_batch() -> None:
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert CrossEntropy()(LOGITS.repeat(2, 1), torch.tensor([1, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_a_wrong_field_is_said() -> None:
    with pytest.raises(UserError, match=r"label_smoothing: .*less than 1"):
        registry.build("losses", "cross_entropy", {"label_smoothing": 1.0})
