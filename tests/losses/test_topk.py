"""The first k: by hand, by the chain rule, and where there are no others."""

import math

import numpy as np
import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.kl import Kl
from edgekd.losses.topk import Topk

TEACHER = torch.log(torch.tensor([[2.0, 4.0, 1.0, 1.0]]))  # of 8: the first two are classes 1 and 0, with 3/4 together
STUDENT = torch.log(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))


def test_numbers_worked_out_by_hand() -> None:
    kept = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    among = 2 / 3 * math.log((2 / 3) / 0.5) + 1 / 3 * math.log((1 / 3) / 0.5)
    assert Topk(k=2)(STUDENT, TEACHER).item() == pytest.approx(kept + 0.75 * among, rel=1e-5)
    root = math.sqrt(2)  # at τ = 2 the two are in the ratio √2
    tempered = sum(p * math.log(p / 0.5) for p in (root / (1 + root), 1 / (1 + root)))
    found = Topk(k=2, temperature=2.0)(STUDENT, TEACHER).item()
    assert found == pytest.approx(kept + 0.75 * 4 * tempered, rel=1e-5)


def test_with_one_class_left_out_it_is_the_whole_divergence() -> None:
    """The chain rule: KL = KL of the masses + P · KL among the k + (1 − P) · KL among the rest, and one class has none."""
    rng = np.random.default_rng(0)
    student, teacher = (torch.from_numpy(x) for x in rng.normal(size=(2, 7, 5)) * 2)
    torch.testing.assert_close(Topk(k=4)(student, teacher), Kl(temperature=1.0)(student, teacher))
    assert Topk(k=2)(student, teacher).item() < Kl(temperature=1.0)(student, teacher).item()


def test_as_many_as_all_classes_is_said() -> None:
    with pytest.raises(UserError, match="topk: k is 4, there are 4 classes\nhint: k below 4, or the loss kl"):
        Topk(k=4)(STUDENT, TEACHER)
