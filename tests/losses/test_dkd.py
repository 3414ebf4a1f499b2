"""Decoupled distillation: by hand, against the paper's identity with plain distillation, and its limits."""

import math

import numpy as np
import pytest
import torch

from edgekd.losses.dkd import Dkd
from edgekd.losses.kl import Kl


def test_numbers_worked_out_by_hand() -> None:
    """Class 0 is the target: teacher [1/2, 1/4, 1/4], student [1/4, 1/4, 1/2]; among the others [1/2, 1/2] and [1/3, 2/3]."""
    teacher = torch.log(torch.tensor([[2.0, 1.0, 1.0]]))
    student = torch.log(torch.tensor([[1.0, 1.0, 2.0]]))
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.5 * math.log(0.5 * 3) + 0.5 * math.log(0.5 * 1.5)
    label = torch.tensor([0])
    for alpha, beta in ((1.0, 0.0), (0.0, 1.0), (1.0, 8.0)):
        found = Dkd(alpha=alpha, beta=beta, temperature=1.0)(student, teacher, labels=label).item()
        assert found == pytest.approx(alpha * target + beta * others, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_plain_distillation_is_its_parts_with_the_weights_one_and_one_minus_the_target(temperature: float) -> None:
    """KD = TCKD + (1 − p_t) · NCKD for each sample: the paper's reformulation."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        student, teacher = (torch.from_numpy(x) for x in rng.normal(size=(2, 1, 6)) * 3)
        label = torch.from_numpy(rng.integers(0, 6, size=1))
        p = torch.softmax(teacher / temperature, 1)[0, label].item()
        parts = Dkd(alpha=1.0, beta=1 - p, temperature=temperature)(student, teacher, labels=label)
        assert parts.item() == pytest.approx(Kl(temperature=temperature)(student, teacher).item(), rel=1e-9)


def test_of_two_classes_the_other_is_alone() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 2)
    labels = torch.arange(6) % 2
    found = Dkd(alpha=1.0, beta=8.0)(student, teacher, labels=labels)
    torch.testing.assert_close(found, Kl(temperature=4.0)(student, teacher))


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda x: Dkd()(x, teacher, labels=labels), student.requires_grad_())
