"""The teacher's later layers on the student's features: by hand, and with a real teacher in an objective."""

import math

import pytest
import torch
from tiny import tiny_data, tiny_student

from edgekd.adapted import Adapted
from edgekd.errors import UserError
from edgekd.losses.cross_head import CrossHead
from edgekd.stage import uses
from edgekd.teachers.function import Function
from edgekd.teachers.module import Module
from edgekd.training.objective import Objective

INPUTS, TARGETS = (x[:8] for x in tiny_data().train)
NAMED = {"use": "cross_head", "student": "block", "teacher": "block"}


def test_numbers_worked_out_by_hand() -> None:
    """s: channel 0 is (5, 9), so (−1, 1) by mean 7 and deviation 2; of the teacher's (1, −1), mean 0 and deviation 1: (−1, 1).

    Channel 1 does not vary: it becomes the teacher's mean, 0. The tail gives its input, so q is the teacher's p the wrong way
    round: p = (P, 1 − P), P = e / (1 + e), and KL = P · 1 + (1 − P) · (−1).
    """
    student = torch.tensor([[5.0, 1.0], [9.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    share = math.e / (1 + math.e)
    found = CrossHead()(student, teacher, tail=lambda x: x, logits=teacher)
    assert found.item() == pytest.approx(2 * share - 1, rel=1e-5)


def test_gradients_flow_through_the_teacher_and_stay_out_of_it() -> None:
    teacher = tiny_student(16, 7, trained=True)
    teach = Module(teacher)
    objective = Objective(uses([NAMED], "losses"), lambda: teach)
    student = tiny_student().eval()
    objective.prepare(student, INPUTS, TARGETS, 0)
    objective(student, INPUTS, TARGETS)["cross_head"].backward()
    assert student.block.conv2.weight.grad.abs().sum() > 0
    assert student.head.weight.grad is None  # the student's own head is not asked
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_the_tail_is_the_teacher_behind_its_module() -> None:
    teacher = tiny_student(16, 7, trained=True).eval()
    teach, features = Module(teacher), torch.randn(8, 16, 12, 12)
    with torch.no_grad():
        expected = teacher.head(teacher.down(features).mean((2, 3)))
        torch.testing.assert_close(teach.onwards(INPUTS, "block", features), expected)
        own = teacher.block(teacher.stem(INPUTS))
        torch.testing.assert_close(teach.onwards(INPUTS, "block", own), teacher(INPUTS))
        swapped = Adapted(teach, classes=(3, 2, 1, 0)).onwards(INPUTS, "block", features)
        torch.testing.assert_close(swapped, expected.flip(1))
    with pytest.raises(UserError, match='the teacher has no module "blok"\nhint: did you mean "block"'):
        teach.onwards(INPUTS, "blok", features)
    with pytest.raises(UserError, match="a Function gives logits only"):
        Function(lambda x: x).onwards(INPUTS, "block", features)


def test_maps_are_brought_to_the_teachers_channels_and_size() -> None:
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 8, 3)
    assert CrossHead().projector(student, teacher)(student).shape == teacher.shape


def test_a_student_trained_so_answers_like_the_teacher_by_its_head() -> None:
    """Twenty steps on one batch: what the teacher's head makes of the student's features comes near the teacher's answer."""
    teach = Module(tiny_student(16, 7, trained=True))
    objective = Objective(uses([NAMED], "losses"), lambda: teach)
    student = tiny_student()
    objective.prepare(student.eval(), INPUTS, TARGETS, 0)
    student.train()
    parameters = [*student.parameters(), *objective.learned.parameters()]
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=0.01)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = objective(student, INPUTS, TARGETS)["cross_head"]
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] / 3
