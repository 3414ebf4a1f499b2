"""Similarities to a queue: by hand, what the queue holds, and that the temperatures are as sharp as they say."""

import math

import pytest
import torch

from edgekd.losses.similarity_queue import SimilarityQueue

EAST, NORTH = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])


def test_numbers_worked_out_by_hand() -> None:
    """The queue holds north only; the teacher says east: p ∝ (e², 1) over (own, queue) at temperature 1/2.

    A student that says north: q ∝ (1, e⁴) at temperature 1/4.
    """
    loss = SimilarityQueue(size=1, student_temperature=0.25, teacher_temperature=0.5)
    state = loss.state(EAST, EAST, 10).eval()
    state.held.copy_(torch.tensor([[0.0, 1.0]]))
    p = math.exp(2) / (math.exp(2) + 1)
    log_q = [-math.log(1 + math.exp(4)), 4 - math.log(1 + math.exp(4))]
    assert loss(NORTH, EAST, state=state).item() == pytest.approx(-(p * log_q[0] + (1 - p) * log_q[1]), rel=1e-6)


def test_the_oldest_leave_the_queue_and_only_training_changes_it() -> None:
    loss = SimilarityQueue(size=3)
    state = loss.state(EAST, EAST, 10)
    before = state.held.clone()
    loss(NORTH, EAST, state=state.eval())
    assert torch.equal(state.held, before)
    state.train()
    loss(NORTH, EAST, state=state)
    loss(torch.cat([NORTH, EAST]), torch.cat([NORTH, EAST]), state=state)
    assert state.held.tolist() == [[1, 0], [0, 1], [1, 0]]
    loss(EAST, NORTH, state=state)
    assert state.held.tolist() == [[0, 1], [0, 1], [1, 0]]
    loss(torch.cat([EAST] * 5), torch.cat([NORTH] * 5), state=state)  # a batch larger than the queue
    assert state.held.tolist() == [[0, 1]] * 3


def test_the_projector_has_the_teachers_width() -> None:
    loss = SimilarityQueue(size=2)
    student, teacher = torch.randn(4, 6, 3, 3), torch.randn(4, 10, 5, 5)
    assert loss.projector(student, teacher)(student).shape == (4, 10)
