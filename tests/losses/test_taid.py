"""The moving teacher: by hand, its first steps against the algorithm in plain numbers, and its ends."""

import math

import pytest
import torch

from edgekd import registry
from edgekd.errors import UserError
from edgekd.losses.taid import Taid


def test_a_number_worked_out_by_hand() -> None:
    """Student [1/2, 1/2], teacher's logits (0, 2 log 3): halfway (0, log 3), [1/4, 3/4]."""
    loss = Taid(start=0.5)
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.tensor([[0.0, 2 * math.log(3)]])
    found = loss(student, teacher, progress=0.0, state=loss.state(student, teacher, 1).eval())
    assert found.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-6)
    found.backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[0.25, -0.25]]))  # q − p_t: none through p_t


@pytest.mark.parametrize(("alpha", "ahead"), [(0.0, False), (0.5, True)])
def test_its_way_is_that_of_the_algorithm(alpha: float, ahead: bool) -> None:
    loss = Taid(start=0.3, end=0.9, alpha=alpha, beta=0.5)
    state = loss.state(torch.zeros(1, 2), torch.zeros(1, 2), 1).train()
    t, momentum, before, way = 0.3, 0.0, math.inf, []
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        student, teacher = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
        assert state.t.item() == pytest.approx(t, rel=1e-6)
        now = loss(student, teacher, progress=step / 8, state=state).item()
        if step:
            momentum = 0.5 * momentum + 0.5 * (before - now) / before
            t = min(0.9, max(0.3 + 0.6 * step / 8, t + alpha / (1 + math.exp(-momentum)) * (1 - t)))
        before = now
        way.append(t)
    assert way == sorted(way)
    assert (way[2] > 0.3 + 0.6 * 2 / 8 + 1e-6) == ahead  # of the straight line


def test_only_training_moves_it() -> None:
    loss = Taid()
    state = loss.state(torch.zeros(1, 2), torch.zeros(1, 2), 1).eval()
    before = {name: value.clone() for name, value in state.state_dict().items()}
    for _ in range(3):
        loss(torch.randn(4, 3), torch.randn(4, 3), progress=0.9, state=state)
    assert all(torch.equal(value, before[name]) for name, value in state.state_dict().items())


def test_an_end_before_the_start_is_said() -> None:
    with pytest.raises(UserError, match=r"taid: start is 0.6, end is 0.5\nhint: start below end"):
        registry.build("losses", "taid", {"start": 0.6, "end": 0.5})
