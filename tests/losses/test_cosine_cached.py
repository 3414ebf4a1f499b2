"""Cached embeddings: by hand, and that a teacher whose outputs are known is not asked."""

import math

import pytest
import torch
from torch import nn

from edgekd.losses.cosine_cached import CosineCached
from edgekd.stage import uses
from edgekd.teacher import Teacher
from edgekd.training.objective import Objective


def test_numbers_worked_out_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, -5.0]])
    assert CosineCached()(student, teacher).item() == pytest.approx(1 - (math.sqrt(0.5) - 1) / 2, rel=1e-6)
    assert CosineCached()(student, 7 * student).item() == pytest.approx(0, abs=1e-6)


def test_no_teacher_runs_where_its_embeddings_are_known() -> None:
    def asked() -> Teacher:
        raise AssertionError("the teacher was asked")

    torch.manual_seed(0)
    student, inputs, known = nn.Linear(3, 4), torch.randn(5, 3), torch.randn(5, 4)
    objective = Objective(uses([{"use": "cosine_cached"}], "losses"), asked)
    found = objective(student, inputs, torch.zeros(5, dtype=torch.int64), known)["cosine_cached"]
    torch.testing.assert_close(found, CosineCached()(student(inputs), known))
