"""The hint and its projector, by hand and against the paper's equation."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.hint import Hint

HINT = Hint(student="block", teacher="layer")


def test_numbers_worked_out_by_hand() -> None:
    assert HINT(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 5.0]])).item() == (1 + 4) / 2
    small, large = torch.full((1, 1, 1, 1), 2.0), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert HINT(large, small).item() == HINT(small, large).item() == 0.25  # the mean of the large map is 2.5


def test_against_the_formula_in_numpy() -> None:
    """Equation 3 with a 1 × 1 regressor, element by element."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    projector = HINT.projector(student, teacher)
    assert isinstance(projector, nn.Conv2d)
    weight, bias = projector.weight.detach().numpy()[:, :, 0, 0], projector.bias.detach().numpy()
    regressed = np.einsum("oc,bchw->bohw", weight, student.numpy()) + bias[:, None, None]
    expected = ((regressed - teacher.numpy()) ** 2).mean()
    assert HINT(projector(student), teacher).item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("student", "teacher"), [((2, 3), (2, 7)), ((2, 5, 3), (2, 5, 7))])
def test_vectors_and_tokens_have_a_linear_projector(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    projector = HINT.projector(torch.zeros(student), torch.zeros(teacher))
    assert isinstance(projector, nn.Linear)
    assert projector(torch.zeros(student)).shape == teacher


@pytest.mark.parametrize(("student", "teacher"), [((2, 3, 4, 4), (2, 7)), ((2, 5, 3), (2, 6, 3))])
def test_features_of_different_kinds_are_refused(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r'"block" gives .* "layer" gives'):
        HINT.projector(torch.zeros(student), torch.zeros(teacher))


def test_its_gradient_is_that_of_finite_differences() -> None:
    student, teacher = torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.randn(1, 2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: HINT(x, teacher), student.requires_grad_())
