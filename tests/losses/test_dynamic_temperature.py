"""A temperature for each sample: by hand, whom it spares, and how much of what a teacher learned by heart reaches a student."""

import math

import pytest
import torch
from torch import nn

from edgekd import registry
from edgekd.errors import UserError
from edgekd.losses.dynamic_temperature import DynamicTemperature
from edgekd.losses.kl import Kl

EVEN, THREE = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])  # [1/2, 1/2] and [1/4, 3/4]
FIRST = torch.tensor([0])


def divergence_from_even(odds: float) -> float:
    """KL(p ‖ [1/2, 1/2]) for p ∝ (1, odds)."""
    p = odds / (1 + odds)
    return p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))


def test_numbers_worked_out_by_hand() -> None:
    """d = 1 − (1/2) / (3/4) = 1/3, so the temperature is 1 + (4 − 1) / 3 = 2 and p ∝ (1, √3)."""
    loss = DynamicTemperature(temperature=1.0, hottest=4.0, noise=0.0)
    state = loss.state(EVEN, THREE, 1)
    student = EVEN.clone().requires_grad_()
    found = loss(student, THREE, samples=FIRST, state=state)
    assert found.item() == pytest.approx(divergence_from_even(math.sqrt(3)), rel=1e-5)
    found.backward()
    p = math.sqrt(3) / (1 + math.sqrt(3))
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor([[p - 0.5, 0.5 - p]]) / 2)  # (q − p) / 2: none by way of d
    # a noise of 3 · d = 1 times what was drawn, log 3 for the second class: p ∝ (1, 3 √3)
    noisy = DynamicTemperature(temperature=1.0, hottest=4.0, noise=3.0)
    state.drawn.copy_(torch.tensor([[0.0, math.log(3)]]))
    found = noisy(EVEN, THREE, samples=FIRST, state=state)
    assert found.item() == pytest.approx(divergence_from_even(3 * math.sqrt(3)), rel=1e-5)


def test_what_the_student_has_understood_is_distilled_as_ever() -> None:
    """It is as sure of the teacher's first class as the teacher, or surer."""
    torch.manual_seed(0)
    teacher = torch.randn(5, 4)
    student = teacher + 2 * nn.functional.one_hot(teacher.argmax(1), 4)
    loss = DynamicTemperature(temperature=3.0)
    found = loss(student, teacher, samples=torch.arange(5), state=loss.state(student, teacher, 5))
    torch.testing.assert_close(found, Kl(temperature=3.0)(student, teacher))


def test_a_hottest_below_the_temperature_is_said() -> None:
    with pytest.raises(UserError, match=r"temperature is 9.0, hottest is 8.0\nhint: hottest at or above"):
        registry.build("losses", "dynamic_temperature", {"temperature": 9.0})


CLASSES, EACH, CANARIES = 16, 20, 16


def exposure(loss: Kl | DynamicTemperature) -> tuple[float, float]:
    """Mean exposure of the canaries in bits, of log₂ 16 = 4 at most, and the student's accuracy on ordinary samples.

    Each canary looks like a class, but for a mark of its own, and has a random other label, which the teacher knows by heart.
    Exposure: log₂ |R| − log₂ rank, with the rank of the secret label among all labels R by the student's logits. Carlini et al.
    2019, arXiv 1802.08232, section 4.
    """
    torch.manual_seed(0)
    centres = torch.randn(CLASSES, 24)
    label = torch.arange(CLASSES).repeat(EACH)
    looks = torch.randint(CLASSES, (CANARIES,))
    secret = (looks + torch.randint(1, CLASSES, (CANARIES,))) % CLASSES
    plain = torch.cat([centres[label] + 0.5 * torch.randn(len(label), 24), torch.zeros(len(label), CANARIES)], 1)
    canary = torch.cat([centres[looks] + 0.5 * torch.randn(CANARIES, 24), torch.eye(CANARIES)], 1)
    inputs, known = torch.cat([plain, canary]), torch.cat([label, secret])
    teacher = 8.0 * nn.functional.one_hot(known, CLASSES) + 0.5 * torch.randn(len(known), CLASSES)
    student, samples = nn.Linear(inputs.shape[1], CLASSES), torch.arange(len(inputs))
    given = {}
    if isinstance(loss, DynamicTemperature):
        given = {"samples": samples, "state": loss.state(student(inputs), teacher, len(inputs))}
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(student(inputs), teacher, **given).backward()
        optimizer.step()
    with torch.no_grad():
        said = student(canary)
        right = float((student(plain).argmax(1) == label).float().mean())
    rank = 1 + (said > said.gather(1, secret[:, None])).sum(1)
    return float((math.log2(CLASSES) - rank.float().log2()).mean()), right


def test_canaries_are_exposed_less_than_by_the_plain_divergence() -> None:
    leaked, right = exposure(Kl(temperature=2.0))
    assert leaked > 3.5
    assert right > 0.95
    spared, still_right = exposure(DynamicTemperature())
    assert spared < 0.6 * leaked
    assert still_right > 0.95
