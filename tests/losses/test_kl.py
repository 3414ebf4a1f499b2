"""The divergence: by hand, in numpy, and in the limit of high temperature."""

import math

import numpy as np
import pytest
import torch

from edgekd import registry
from edgekd.errors import UserError
from edgekd.losses.kl import Kl

# At τ = 2 the teacher is [1/4, 3/4] and the student [1/2, 1/2].
TEACHER = torch.tensor([[0.0, 2 * math.log(3)]])
STUDENT = torch.zeros(1, 2)


def test_a_number_worked_out_by_hand() -> None:
    expected = 4 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5))
    assert Kl(temperature=2.0)(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-6)


def test_its_gradient_is_tau_times_the_difference_of_the_probabilities() -> None:
    student = STUDENT.clone().requires_grad_()
    Kl(temperature=2.0)(student, TEACHER).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[2 * (0.5 - 0.25), 2 * (0.5 - 0.75)]]))


def test_at_high_temperature_it_matches_logits() -> None:
    """Hinton 2015, equation 4: for zero-mean logits τ² ∂/∂z tends to (z − v) / classes."""
    z, v = torch.tensor([[1.0, -3.0, 2.0]], dtype=torch.float64), torch.tensor([[0.5, 0.5, -1.0]], dtype=torch.float64)
    student = z.clone().requires_grad_()
    Kl(temperature=1e4)(student, v).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (z - v) / 3, rtol=0, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_against_the_definition_in_numpy(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 7, 5)) * 3
    q, p = (np.exp(x / temperature) / np.exp(x / temperature).sum(1, keepdims=True) for x in (student, teacher))
    expected = temperature**2 * (p * np.log(p / q)).sum() / 7
    found = Kl(temperature=temperature)(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: Kl()(x, teacher), student.requires_grad_())


def test_logits_of_any_size_give_a_finite_loss() -> None:
    far = torch.tensor([[1e4, -1e4]])
    assert torch.isfinite(Kl(temperature=1.0)(-far, far))
    assert Kl(temperature=1.0)(far, far).item() == 0


@pytest.mark.parametrize("value", [0, -1.0, "warm"])
def test_a_wrong_temperature_is_said(value: object) -> None:
    with pytest.raises(UserError, match='the loss "kl": temperature: '):
        registry.build("losses", "kl", {"temperature": value})


def test_a_misspelt_field_is_said_with_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "temperature"'):
        registry.build("losses", "kl", {"temprature": 2.0})
