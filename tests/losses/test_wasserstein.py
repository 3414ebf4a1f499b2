"""Transport between batches: by hand, and against SciPy's exact assignment."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from edgekd.losses.wasserstein import Wasserstein


def test_a_plan_worked_out_by_hand() -> None:
    """Cost [[0, 1], [1, 0]] at ε = 1: the plan is symmetric, ½ · [e⁰, e⁻¹] / (1 + e⁻¹) in each row, so the cost is 1 / (1 + e)."""
    corners = torch.eye(2)
    found = Wasserstein(regularization=1.0)(corners, corners).item()
    assert found == pytest.approx(1 / (1 + np.e), rel=1e-6)


def test_with_little_entropy_it_is_the_cheapest_assignment() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    cost = 1 - (normalize(student, dim=1) @ normalize(teacher, dim=1).T).numpy()
    rows, columns = linear_sum_assignment(cost)
    found = Wasserstein(regularization=1e-3, iterations=5000)(student, teacher).item()
    assert found == pytest.approx(cost[rows, columns].mean(), rel=1e-3)
    shuffled = Wasserstein(regularization=1e-3, iterations=5000)(teacher[[2, 0, 1, 5, 3, 4]], teacher).item()
    assert shuffled == pytest.approx(0, abs=1e-4)  # whoever carries what: only the batch as a whole counts


def test_the_plan_keeps_the_masses() -> None:
    torch.manual_seed(1)
    plan = Wasserstein()._plan(torch.rand(5, 5) * 2)
    torch.testing.assert_close(plan.sum(0), torch.full((5,), 0.2))
    torch.testing.assert_close(plan.sum(1), torch.full((5,), 0.2), atol=5e-3, rtol=0)
