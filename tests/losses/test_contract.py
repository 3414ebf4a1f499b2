"""What edgekd/losses/__init__.py promises, for every loss of the registry: a new file is tested by existing."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from edgekd import registry
from edgekd.objective import Loss

LOSSES = registry.names("losses")


def made(name: str) -> Loss:
    """The loss with its defaults; the modules that a loss on features compares are named so that they can be told apart."""
    named = {f.name: f.name for f in fields(registry.find("losses", name)) if f.name in ("student", "teacher")}
    loss: Loss = registry.build("losses", name, named)
    return loss


def pair(loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """What the loss compares, where the student is not the teacher."""
    generator = torch.Generator().manual_seed(0)
    shape = (6, 3, 4, 4) if loss.wants == "features" else (6, 5)
    student = torch.randn(shape, generator=generator).requires_grad_()
    return student, torch.arange(6) % 5 if loss.wants == "labels" else torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", LOSSES)
def test_it_says_what_it_wants_and_is_frozen(name: str) -> None:
    loss = made(name)
    assert loss.wants in ("labels", "logits", "features")
    with pytest.raises(FrozenInstanceError):
        loss.anything = 1  # type: ignore[attr-defined]
    if loss.wants == "features":
        assert (loss.student, loss.teacher) == ("student", "teacher")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_a_scalar_that_descends(name: str) -> None:
    """A step against its gradient makes it smaller, and it is never negative."""
    loss = made(name)
    student, teacher = pair(loss)
    value = loss(student, teacher)
    assert value.shape == ()
    assert value.item() >= 0
    value.backward()
    assert student.grad is not None
    after = loss((student - 1e-2 * student.grad).detach(), teacher)
    assert after.item() < value.item()


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_a_mean_over_the_batch(name: str) -> None:
    loss = made(name)
    student, teacher = pair(loss)
    torch.testing.assert_close(loss(torch.cat([student] * 2), torch.cat([teacher] * 2)), loss(student, teacher))


@pytest.mark.parametrize("name", [n for n in LOSSES if made(n).wants != "labels"])
def test_a_student_that_equals_its_teacher_has_no_loss(name: str) -> None:
    loss = made(name)
    _, teacher = pair(loss)
    assert loss(teacher.clone(), teacher).item() == pytest.approx(0, abs=1e-6)
