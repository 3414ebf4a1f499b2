"""The contrast: against a loop over samples and negatives, its memory, and that it tells pairs apart."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from edgekd.losses.crd import Crd

LOSS = Crd(width=4, negatives=3, temperature=0.5, momentum=0.25)
COUNT = 6


def test_against_a_loop() -> None:
    """The same negatives are drawn again from the same seed; the rest is the formula, one number at a time."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5), torch.randn(2, 7)
    state = LOSS.state(student, teacher, COUNT).eval()
    state.constants.copy_(torch.tensor([2.0, 3.0]))
    samples = torch.tensor([4, 1])
    torch.manual_seed(1)
    found = LOSS(student, teacher, samples=samples, state=state).item()
    torch.manual_seed(1)
    away = torch.randint(1, COUNT, (2, 3))
    ours, theirs = normalize(state.student(student), dim=1), normalize(state.teacher(teacher), dim=1)
    expected = 0.0
    for x, memory, z in ((ours, state.teacher_memory, 2.0), (theirs, state.student_memory, 3.0)):
        for i, sample in enumerate(samples.tolist()):
            others = [(sample + int(step)) % COUNT for step in away[i]]
            assert sample not in others
            for k, other in enumerate([sample, *others]):
                e = math.exp(float(x[i].detach() @ memory[other]) / 0.5) / z
                h = e / (e + 3 / COUNT)
                expected -= math.log(h if k == 0 else 1 - h) / 2
    assert found == pytest.approx(expected, rel=1e-5)


def test_its_memory_follows_the_embeddings_while_training() -> None:
    torch.manual_seed(0)
    student, teacher, samples = torch.randn(2, 5), torch.randn(2, 7), torch.tensor([4, 1])
    state = LOSS.state(student, teacher, COUNT)
    before = {name: value.clone() for name, value in state.state_dict().items()}
    LOSS(student, teacher, samples=samples, state=state.eval())
    assert all(torch.equal(value, before[name]) for name, value in state.state_dict().items())
    LOSS(student, teacher, samples=samples, state=state.train())
    ours = normalize(state.student(student), dim=1).detach()
    moved = normalize(0.25 * before["student_memory"][samples] + 0.75 * ours, dim=1)
    torch.testing.assert_close(state.student_memory[samples], moved)
    assert torch.equal(state.teacher_memory[[0, 2, 3, 5]], before["teacher_memory"][[0, 2, 3, 5]])
    constants = state.constants.clone()
    assert (constants > 0).all()
    LOSS(2 * student, teacher, samples=samples, state=state)
    assert torch.equal(state.constants, constants)  # set once


def test_it_learns_to_tell_pairs_from_others() -> None:
    """Student and teacher see the same eight samples differently turned; embeddings learn to match each with its own."""
    torch.manual_seed(0)
    loss, samples = Crd(width=8, negatives=16, temperature=0.2), torch.arange(8)
    teacher = torch.randn(8, 6)
    student = teacher @ torch.randn(6, 6)
    state = loss.state(student, teacher, 8).train()
    optimizer = torch.optim.Adam(state.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        loss(student, teacher, samples=samples, state=state).backward()
        optimizer.step()
    similar = normalize(state.student(student), dim=1) @ normalize(state.teacher(teacher), dim=1).T
    assert (similar.argmax(1) == samples).all()
