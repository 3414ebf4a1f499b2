"""The shuffled teacher: what stays, what moves, and its mean over the draws."""

import math

import pytest
import torch
from torch.nn.functional import softmax

from edgekd.losses.kl import Kl
from edgekd.losses.permuted_dark import PermutedDark


def test_numbers_worked_out_by_hand() -> None:
    """Of three classes two are shuffled: the teacher [1/2, 1/3, 1/6] is met as it is, or as [1/2, 1/6, 1/3]."""
    teacher = torch.log(torch.tensor([[3.0, 2.0, 1.0]]))
    swapped = 1 / 3 * math.log((1 / 3) / (1 / 6)) + 1 / 6 * math.log((1 / 6) / (1 / 3))
    torch.manual_seed(0)
    found = sorted({round(PermutedDark()(teacher, teacher).item(), 5) for _ in range(20)})
    assert found == [pytest.approx(0, abs=1e-5), pytest.approx(swapped, abs=1e-5)]


def test_of_two_classes_nothing_is_shuffled() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 2)
    torch.testing.assert_close(PermutedDark(temperature=3.0)(student, teacher), Kl(temperature=3.0)(student, teacher))


def test_on_average_the_others_are_all_alike() -> None:
    """The gradient is q − p̃; its mean over many draws tells the teacher's first class, and of the others their mean."""
    torch.manual_seed(0)
    teacher, student = torch.randn(1, 5), torch.zeros(1, 5, requires_grad=True)
    PermutedDark()(student.expand(20000, 5), teacher.expand(20000, 5)).backward()
    assert student.grad is not None
    p = softmax(teacher, 1)
    first = p.argmax().item()
    expected = torch.full((5,), (1 - p.max().item()) / 4)
    expected[first] = p.max()
    torch.testing.assert_close(0.2 - student.grad[0], expected, atol=5e-3, rtol=0)
