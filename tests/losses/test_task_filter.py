"""Task filters: by hand in both stages, and who learns when."""

import math

import pytest
import torch

from edgekd.losses.task_filter import TaskFilter

LOSS = TaskFilter(width=1, warmup=0.25)
LABELS = torch.tensor([0])


def filters() -> torch.nn.ModuleList:
    """F s = s_0 + 2 s_1, F' t = −t_0, no biases; classes by ±1 of the student's filter and 0 of the teacher's."""
    heads = LOSS.classifiers(torch.zeros(1, 2), torch.zeros(1, 1), 2)
    with torch.no_grad():
        for head, weight, classifier in zip(
            heads, ([[1.0, 2.0]], [[-1.0]]), ([[1.0], [-1.0]], [[0.0], [0.0]]), strict=True
        ):
            head.filter.weight.copy_(torch.tensor(weight))
            head.classifier.weight.copy_(torch.tensor(classifier))
            head.filter.bias.zero_()
            head.classifier.bias.zero_()
    return heads


def test_numbers_worked_out_by_hand() -> None:
    """s = (1, 1/2): F s = 2. t = 3: F' t = −3. Stage II: 5². Stage I: −log σ(2 · 2) of the student's, log 2 of the teacher's."""
    student, teacher = torch.tensor([[1.0, 0.5]], requires_grad=True), torch.tensor([[3.0]])
    given = {"labels": LABELS, "classifiers": filters()}
    assert LOSS(student, teacher, progress=0.25, **given).item() == 25
    first = LOSS(student, teacher, progress=0.24, **given)
    assert first.item() == pytest.approx(math.log(1 + math.exp(-4)) + math.log(2), rel=1e-6)


def test_first_the_filters_learn_and_then_the_student() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3, 6, 6, requires_grad=True), torch.randn(4, 5, 3, 3)
    loss, labels = TaskFilter(), torch.arange(4) % 2
    heads = loss.classifiers(student, teacher, 2)
    loss(student, teacher, labels=labels, progress=0.0, classifiers=heads).backward()
    assert not student.grad.any()
    assert all(p.grad is not None for p in heads.parameters())
    heads.zero_grad()
    loss(student, teacher, labels=labels, progress=0.5, classifiers=heads).backward()
    assert student.grad.abs().sum() > 0
    own, other = heads
    assert own.filter.weight.grad is not None and own.classifier.weight.grad is None
    assert all(p.grad is None for p in other.parameters())


def test_a_filter_finds_the_channel_that_tells_the_classes() -> None:
    """Of three channels one says the class, the others are noise ten times as loud: the filter learns to leave them out."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    teacher = torch.cat([2.0 * labels[:, None] - 1, 10 * torch.randn(64, 2)], 1)
    student = torch.zeros(64, 3, requires_grad=True)
    loss = TaskFilter(width=1)
    heads = loss.classifiers(student, teacher, 2)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss(student, teacher, labels=labels, progress=0.0, classifiers=heads).backward()
        optimizer.step()
    weight = heads[1].filter.weight[0].abs()
    assert weight[0] > 5 * weight[1:].max()
