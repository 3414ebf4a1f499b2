"""A gate chooses the teacher: by hand, and what it learns from."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.teacher_routing import TeacherRouting

STUDENT = torch.zeros(3, 2)
TEACHERS = torch.tensor([[[math.log(0.9), math.log(0.1)], [0.0, 0.0]]]).expand(3, 2, 2)
FAR = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
UNEVEN = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # of a gate that gives the first teacher 3/4


def gate(loss: TeacherRouting) -> Any:
    """One that gives the first teacher 3/4, whatever the student says."""
    made = loss.state(STUDENT, TEACHERS, 3)
    assert [tuple(layer.weight.shape) for layer in made] == [(4, 2), (2, 4)]
    with torch.no_grad():
        for layer in made:
            layer.weight.zero_()
        made[1].bias.copy_(torch.tensor([math.log(3.0), 0.0]))
    return made


def test_numbers_worked_out_by_hand() -> None:
    for fields, expected in (
        ({}, FAR + UNEVEN),
        ({"k": 2}, FAR / 2 + UNEVEN),
        ({"balance": 0.5}, FAR + UNEVEN / 2),
        ({"balance": 0.0}, FAR),
    ):
        loss = TeacherRouting(temperature=1.0, **fields)  # type: ignore[arg-type]
        assert loss(STUDENT, TEACHERS, state=gate(loss)).item() == pytest.approx(expected, rel=1e-6)


def test_each_sample_has_its_own_teacher() -> None:
    """A gate that reads the first class: a student that says it is sent to the second teacher."""
    loss = TeacherRouting(temperature=1.0, balance=0.0)
    state = gate(loss)
    with torch.no_grad():
        state[0].weight[0, 0] = 1.0
        state[1].weight[1, 0] = 10.0
    student = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    found = loss(student, TEACHERS[:2], state=state).item()
    q = [torch.log_softmax(row, 0) for row in student]
    to_second = 0.5 * ((math.log(0.5) - q[0][0]) + (math.log(0.5) - q[0][1]))
    to_first = 0.9 * (math.log(0.9) - q[1][0]) + 0.1 * (math.log(0.1) - q[1][1])
    assert found == pytest.approx(float(to_second + to_first) / 2, rel=1e-5)


def test_the_gate_learns_from_the_balance() -> None:
    for balance, moves in ((1.0, True), (0.0, False)):
        loss = TeacherRouting(balance=balance)
        state: nn.Module = gate(loss)
        student = STUDENT.clone().requires_grad_()
        loss(student, TEACHERS, state=state).backward()
        bias = state[1].bias.grad  # type: ignore[index]
        assert bool((bias[0] > 0) & (bias[1] < 0)) == moves


def test_more_than_there_are_cannot_be_chosen() -> None:
    with pytest.raises(UserError, match="teacher_routing: k is 3, there are 2 teachers\nhint: k = 2"):
        TeacherRouting(k=3).state(STUDENT, TEACHERS, 3)
