"""What edgekd/losses/__init__.py promises, for every loss of the registry: a new file is tested by existing."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from tiny import tiny_data, tiny_student
from torch.nn.functional import avg_pool2d

from edgekd import registry
from edgekd.errors import UserError
from edgekd.stage import uses
from edgekd.teachers.module import Module
from edgekd.training.compared import TARGETS, Masked
from edgekd.training.features import vectors
from edgekd.training.objective import Objective
from edgekd.training.terms import ALSO, WANTS

LOSSES = registry.names("losses")
SAMPLES, CLASSES = 6, 5
SHAPES = {"attention_relations": (SAMPLES, 5, 12), "class_attention": (SAMPLES, CLASSES, 4, 4)}
"""What a loss on features compares, where it is not the map that any module gives."""
NOT_ZERO = {
    "adaptive_mask": "its masks are somewhat alike",
    "auxiliary_heads": "it is a cross-entropy with the labels",
    "ensemble_discriminator": "its discriminator cannot tell",
    "label_adapt": "it is a cross-entropy",
    "multi_scale_contrast": "other samples are near too",
    "partial_ranking": "it is a sum of cross-entropies",
    "pixel_contrast": "other images are near too",
    "recursive": "it is a cross-entropy",
    "subspace_pseudo_classes": "its branch has learned nothing yet",
    "token_graph": "other tokens are near too",
    "wasserstein_dual": "its critic has learned nothing yet",
    "confidence_weighted": "it is a cross-entropy with the labels",
    "cross_attention": "its projectors are learned",
    "crd": "its embeddings differ, and other samples count",
    "dual_head": "one of its terms is a cross-entropy with the labels",
    "ladder": "its projectors are learned",
    "local_structure": "its layers are learned",
    "masked_partial": "no image is made up without error",
    "ofa": "it is a cross-entropy",
    "orthogonal": "the teacher's features are normalised",
    "permuted_dark": "the teacher's classes are shuffled",
    "plackett_luce": "it is a sum of cross-entropies",
    "prototype": "one of its terms is a cross-entropy with the labels",
    "similarity_queue": "it is a cross-entropy",
    "task_filter": "its filters are learned",
    "wasserstein": "the plan's entropy carries some of it astray",
    "sampled": "draws from the teacher are not the teacher",
    "sinkhorn": "other samples are near too",
    "teacher_dropping": "the other teachers differ",
    "teacher_routing": "its gate is not balanced",
    "teacher_selection": "the other teachers differ",
}
RANDOM = {"crd", "permuted_dark", "sampled", "teacher_dropping", "teacher_selection"}
HALF = {
    *["adaptive_mask", "auxiliary_heads", "cross_attention", "cross_head", "dual_head", "ladder", "layer_distribution"],
    *["local_structure", "masked_partial", "prototype", "structured", "task_filter", "task_units"],
}
"""Losses that widen what they are given, as under mixed precision."""
WITHIN_THE_BATCH = {"multi_scale_contrast", "token_graph"}
"""Whose contrast is with the rest of the batch: where each sample is there twice, half of the others are the same."""


def made(name: str) -> Any:
    """The loss with its defaults; the modules that a loss on features compares are named so that they can be told apart."""
    modules = [f for f in fields(registry.find("losses", name)) if f.name in ("student", "teacher")]
    named = {f.name: f.name if f.default == "" else (f.name, f"{f.name} below") for f in modules}
    return registry.build("losses", name, named)


def compared(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the loss compares, where the student is not the teacher."""
    generator, wants = torch.Generator().manual_seed(0), made(name).wants
    logits, features = (SAMPLES, CLASSES), SHAPES.get(name, (SAMPLES, 3, 4, 4))
    student = torch.randn(logits if wants in ("labels", "logits", "members") else features, generator=generator)
    theirs = {"features": features, "masked": features, "members": (SAMPLES, 3, CLASSES)}.get(wants, logits)
    teacher = torch.randn(theirs, generator=generator)
    return student.requires_grad_(), torch.arange(SAMPLES) % CLASSES if wants in TARGETS else teacher


def given(loss: Any, student: torch.Tensor, teacher: torch.Tensor) -> tuple[Any, Any, dict[str, Any]]:
    """What the objective makes of it: lists for a loss on several modules, what was hidden, and what it wants by keyword."""
    samples = torch.arange(len(teacher)) % SAMPLES
    answer = torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(5))
    ours, theirs = (
        [x, avg_pool2d(x, 2)] if isinstance(names, tuple) else x
        for x, names in (
            (student, loss.student if hasattr(loss, "student") else ""),
            (teacher, getattr(loss, "teacher", "")),
        )
    )
    if loss.wants == "masked":
        image = torch.randn(SAMPLES, 2, 8, 8, generator=torch.Generator().manual_seed(6))
        theirs = Masked(teacher, image[samples], (image[:, :1] > 0.5)[samples])
    also = {"labels": samples % CLASSES, "targets": samples % CLASSES, "progress": 0.5, "samples": samples}
    if {"own", "logits", "tail", "layer"} & set(wanted := getattr(loss, "also", ())):
        also |= {"own": vectors(student) @ answer, "tail": lambda x: vectors(x).float() @ answer}
        also["layer"] = torch.nn.Linear(3, CLASSES, bias=False)
        also["layer"].weight.data.copy_(answer.T)
        also["logits"] = vectors(teacher) @ answer if loss.wants == "features" else teacher
    return ours, theirs, {key: also[key] for key in wanted}


def learned(loss: Any, student: torch.Tensor, teacher: torch.Tensor) -> dict[str, Any]:
    """Its state and its classifiers, as the objective makes them."""
    ours, theirs, _ = given(loss, student, teacher)
    parts = {"state": loss.state(ours, theirs, SAMPLES).eval()} if hasattr(loss, "state") else {}
    return parts | (
        {"classifiers": loss.classifiers(ours, theirs, CLASSES).eval()} if hasattr(loss, "classifiers") else {}
    )


def computed(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss as the objective calls it, with the same random numbers each time."""
    loss, examples = made(name), compared(name)
    torch.manual_seed(1)
    parts = learned(loss, *examples)
    projector = loss.projector(*given(loss, *examples)[:2]) if hasattr(loss, "projector") else torch.nn.Identity()

    def value(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        ours, theirs, also = given(loss, student, teacher)
        found: torch.Tensor = loss(projector(ours), theirs, **parts, **also)
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
    modules = {"features": ["student", "teacher"], "masked": ["student", "teacher"]}
    modules |= {"labels": [], "logits": [], "members": []}
    assert list(named) == modules.get(loss.wants, ["student"])
    assert all(default in ("", ()) for default in named.values())


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


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in RANDOM | WITHIN_THE_BATCH])
def test_it_is_a_mean_over_the_batch(name: str) -> None:
    value = computed(name)
    student, teacher = compared(name)
    torch.testing.assert_close(value(torch.cat([student] * 2), torch.cat([teacher] * 2)), value(student, teacher))


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_what_is_random_comes_from_torchs_generator(name: str) -> None:
    loss, examples = made(name), compared(name)
    ours, theirs, also = given(loss, *examples)
    parts = learned(loss, *examples)
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(loss(ours, theirs, **parts, **also).item())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", [n for n in LOSSES if made(n).wants != "labels" and n not in NOT_ZERO])
def test_a_student_that_equals_its_teacher_has_no_loss(name: str) -> None:
    """Whatever is learned is left out: the projector stands for a student that has the teacher's widths already."""
    loss, (_, teacher) = made(name), compared(name)
    ours, theirs, also = given(loss, teacher.clone(), teacher)
    parts = learned(loss, teacher, teacher)
    assert loss(ours, theirs, **parts, **also).item() == pytest.approx(0, abs=1e-6)


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


def halved(x: Any) -> Any:
    """Half precision of whatever a loss is given."""
    if isinstance(x, torch.Tensor):
        return x.half() if x.is_floating_point() else x
    if isinstance(x, Masked):
        return Masked(*map(halved, x))
    return [part.half() for part in x] if isinstance(x, list) else x


@pytest.mark.parametrize("name", sorted(HALF))
def test_half_precision_does_not_overflow(name: str) -> None:
    """Features of some hundreds, whose squares are above 65,504."""
    loss, examples = made(name), compared(name)
    student, teacher = (300 * x.detach() if x.is_floating_point() else x for x in examples)
    torch.manual_seed(1)
    parts = learned(loss, *examples)
    projector = loss.projector(*given(loss, *examples)[:2]) if hasattr(loss, "projector") else torch.nn.Identity()
    ours, theirs, also = given(loss, student.requires_grad_(), teacher)
    value = loss(halved(projector(ours)), halved(theirs), **parts, **{key: halved(x) for key, x in also.items()})
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value)
    assert student.grad is not None and torch.isfinite(student.grad).all() and student.grad.any()


NUMBERS = [(n, f.name) for n in LOSSES for f in fields(registry.find("losses", n)) if "float" in str(f.type)]


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_numbers_out_of_range_are_refused_and_misspelt_fields_named(name: str, field: str) -> None:
    for value in (-1.0, float("nan"), float("inf"), "warm"):
        with pytest.raises(UserError, match=f'the loss "{name}": {field}: '):
            registry.build("losses", name, {field: value})
    with pytest.raises(UserError, match=f'did you mean "{field}"'):
        registry.build("losses", name, {f"{field}x": 1.0})
    if field == "temperature":
        with pytest.raises(UserError, match="greater than 0"):
            registry.build("losses", name, {field: 0})


@pytest.mark.parametrize("name", LOSSES)
def test_mixed_precision_gives_a_finite_loss_and_gradient(name: str) -> None:
    """Under autocast the student's outputs are bfloat16; what the teacher gave before is float32."""
    value = computed(name)
    student, teacher = compared(name)
    student = student.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = value(student, teacher)
    found.backward()
    assert torch.isfinite(found)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert student.grad.any()


@pytest.mark.parametrize("name", [n for n in LOSSES if made(n).wants in ("labels", "logits")])
def test_half_precision_of_large_logits_does_not_overflow(name: str) -> None:
    value = computed(name)
    student, teacher = compared(name)
    student = (100 * student.detach()).half().requires_grad_()
    found = value(student, teacher if teacher.dtype == torch.int64 else (100 * teacher).half())
    found.backward()
    assert torch.isfinite(found)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
