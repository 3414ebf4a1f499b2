"""What edgekd/losses/__init__.py promises, for every loss of the registry: a new file is tested by existing."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from tiny import tiny_data, tiny_student

from edgekd import registry
from edgekd.errors import UserError
from edgekd.objective import ALSO, WANTS, Objective
from edgekd.stage import uses
from edgekd.teachers.module import Module

LOSSES = registry.names("losses")
SAMPLES, CLASSES = 6, 5
SHAPES = {"attention_relations": (SAMPLES, 5, 12), "class_attention": (SAMPLES, CLASSES, 4, 4)}
"""What a loss on features compares, where it is not the map that any module gives."""
NOT_ZERO = {
    "confidence_weighted": "it is a cross-entropy with the labels",
    "crd": "its embeddings differ, and other samples count",
    "ofa": "it is a cross-entropy",
    "orthogonal": "the teacher's features are normalised",
    "permuted_dark": "the teacher's classes are shuffled",
    "plackett_luce": "it is a sum of cross-entropies",
    "similarity_queue": "it is a cross-entropy",
    "wasserstein": "the plan's entropy carries some of it astray",
    "sampled": "draws from the teacher are not the teacher",
    "sinkhorn": "other samples are near too",
    "teacher_dropping": "the other teachers differ",
    "teacher_routing": "its gate is not balanced",
}
RANDOM = {"crd", "permuted_dark", "sampled", "teacher_dropping"}


def made(name: str) -> Any:
    """The loss with its defaults; the modules that a loss on features compares are named so that they can be told apart."""
    named = {f.name: f.name for f in fields(registry.find("losses", name)) if f.name in ("student", "teacher")}
    return registry.build("losses", name, named)


def compared(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the loss compares, where the student is not the teacher."""
    generator, wants = torch.Generator().manual_seed(0), made(name).wants
    logits, features = (SAMPLES, CLASSES), SHAPES.get(name, (SAMPLES, 3, 4, 4))
    student = torch.randn(features if wants in ("features", "branch") else logits, generator=generator)
    theirs = {"features": features, "members": (SAMPLES, 3, CLASSES)}.get(wants, logits)
    teacher = torch.randn(theirs, generator=generator)
    return student.requires_grad_(), torch.arange(SAMPLES) % CLASSES if wants == "labels" else teacher


def computed(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss as the objective calls it, with the same random numbers each time."""
    loss, examples = made(name), compared(name)
    torch.manual_seed(1)
    parts = {"state": loss.state(*examples, SAMPLES).eval()} if hasattr(loss, "state") else {}
    projector = loss.projector(*examples) if hasattr(loss, "projector") else torch.nn.Identity()

    def value(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        samples = torch.arange(len(teacher)) % SAMPLES
        also = {"labels": samples % CLASSES, "progress": 0.5, "samples": samples}
        found: torch.Tensor = loss(
            projector(student), teacher, **parts, **{key: also[key] for key in getattr(loss, "also", ())}
        )
        return found

    return value


@pytest.mark.parametrize("name", LOSSES)
def test_it_says_what_it_wants_and_is_frozen(name: str) -> None:
    loss = made(name)
    assert loss.wants in WANTS
    assert set(getattr(loss, "also", ())) <= set(ALSO)
    assert registry.constant("losses", name, "wants") == loss.wants  # known without importing it
    with pytest.raises(FrozenInstanceError):
        loss.anything = 1
    named = {f.name: f.default for f in fields(loss) if f.name in ("student", "teacher")}
    assert named == {"features": {"student": "", "teacher": ""}, "branch": {"student": ""}}.get(loss.wants, {})


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_a_scalar_that_descends(name: str) -> None:
    """A step against its gradient makes it smaller, and it is never negative."""
    value = computed(name)
    student, teacher = compared(name)
    before = value(student, teacher)
    assert before.shape == ()
    assert before.item() >= 0
    before.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    after = value((student - 1e-2 * student.grad / student.grad.norm()).detach(), teacher)
    assert after.item() < before.item()


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in RANDOM])
def test_it_is_a_mean_over_the_batch(name: str) -> None:
    value = computed(name)
    student, teacher = compared(name)
    torch.testing.assert_close(value(torch.cat([student] * 2), torch.cat([teacher] * 2)), value(student, teacher))


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_what_is_random_comes_from_torchs_generator(name: str) -> None:
    loss, examples = made(name), compared(name)
    also = {"samples": torch.arange(SAMPLES), "state": loss.state(*examples, SAMPLES)} if name == "crd" else {}
    found = []
    for seed in (3, 3, 4):
        if also:
            also["state"].eval()
        torch.manual_seed(seed)
        found.append(loss(*examples, **also).item())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", [n for n in LOSSES if made(n).wants != "labels" and n not in NOT_ZERO])
def test_a_student_that_equals_its_teacher_has_no_loss(name: str) -> None:
    """Whatever is learned is left out: the projector stands for a student that has the teacher's widths already."""
    loss, (_, teacher) = made(name), compared(name)
    also = {"labels": torch.arange(SAMPLES) % CLASSES, "progress": 0.5}
    given = {key: also[key] for key in getattr(loss, "also", ())}
    if hasattr(loss, "state"):
        given["state"] = loss.state(teacher, teacher, SAMPLES)
    assert loss(teacher.clone(), teacher, **given).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", [n for n in LOSSES if made(n).wants in ("labels", "logits")])
def test_logits_of_any_size_give_a_finite_loss_and_gradient(name: str) -> None:
    value = computed(name)
    student, teacher = compared(name)
    huge = (1e4 * student).detach().requires_grad_()
    found = value(huge, teacher if teacher.dtype == torch.int64 else 1e4 * teacher)
    found.backward()
    assert torch.isfinite(found)
    assert huge.grad is not None
    assert torch.isfinite(huge.grad).all()


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in SHAPES])
def test_a_batch_of_one_is_computed_or_refused(name: str) -> None:
    """In an objective, as a recipe names it: with paired modules, real networks, and whatever the loss learns."""
    inputs, targets = (x[:1] for x in tiny_data().train)
    objective = Objective(uses([{"use": name}], "losses"), lambda: Module(tiny_student(16, 7)))
    if getattr(made(name), "least", 1) > 1:
        with pytest.raises(UserError, match=f'the loss "{name}" needs a batch of {made(name).least} or more'):
            objective.prepare(tiny_student().eval(), inputs, targets, 0)
    else:
        objective.prepare(tiny_student().eval(), inputs, targets, 0)
        assert torch.isfinite(objective(tiny_student().eval(), inputs, targets)[name])


NUMBERS = [(n, f.name) for n in LOSSES for f in fields(registry.find("losses", n)) if "float" in str(f.type)]


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_numbers_out_of_range_are_refused_and_misspelt_fields_named(name: str, field: str) -> None:
    for value in (-1.0, float("nan"), float("inf"), "warm"):
        with pytest.raises(UserError, match=f'losses "{name}": {field}: '):
            registry.build("losses", name, {field: value})
    with pytest.raises(UserError, match=f'did you mean "{field}"'):
        registry.build("losses", name, {f"{field}x": 1.0})
    if field == "temperature":
        with pytest.raises(UserError, match="greater than 0"):
            registry.build("losses", name, {field: 0})
