"""The objective: which loss is given what."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TinyNet, tiny_data, tiny_student
from torch import nn

from edgekd import registry
from edgekd.errors import EdgekdError, UserError
from edgekd.losses.attention_map import AttentionMap
from edgekd.losses.cross_entropy import CrossEntropy
from edgekd.losses.kl import Kl
from edgekd.objective import Objective
from edgekd.stage import uses
from edgekd.teachers.module import Module

INPUTS, TARGETS = (x[:6] for x in tiny_data().train)
HINT = {"use": "hint", "student": "block", "teacher": "down"}


class Counted(Module):
    """A teacher that says how often it was asked."""

    asked = 0

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        type(self).asked += 1
        return super().outputs(inputs)


def objective(*tables: dict[str, Any], teacher: nn.Module | None = None) -> Objective:
    return Objective(uses(tables, "losses"), lambda: Module(teacher or tiny_student(16, 7)))


def test_it_is_the_weighted_values_of_its_losses() -> None:
    student, teacher = tiny_student().eval(), tiny_student(16, 7).eval()
    both = objective({"use": "cross_entropy", "weight": 0.25}, {"use": "kl", "temperature": 2.0, "weight": 3})
    terms = both(student, INPUTS, TARGETS)
    logits = student(INPUTS)
    assert list(terms) == ["cross_entropy", "kl"]
    assert torch.equal(terms["cross_entropy"], 0.25 * CrossEntropy()(logits, TARGETS))
    assert torch.equal(terms["kl"], 3 * Kl(temperature=2.0)(logits, teacher(INPUTS).detach()))


def test_a_loss_may_be_used_twice() -> None:
    twice = objective({"use": "kl", "temperature": 1.0}, {"use": "cross_entropy"}, {"use": "kl", "temperature": 4.0})
    assert list(twice(tiny_student(), INPUTS, TARGETS)) == ["kl", "cross_entropy", "kl 2"]


def test_features_are_those_of_the_named_modules() -> None:
    student, teacher = tiny_student().eval(), tiny_student(16, 7).eval()
    names = {"student": "block", "teacher": "stem"}
    terms = objective({"use": "attention_map", **names})(student, INPUTS, TARGETS)
    expected = AttentionMap(**names)(student.block(student.stem(INPUTS)), teacher.stem(INPUTS).detach())
    assert torch.equal(terms["attention_map"], expected)


def test_the_teacher_is_asked_only_for_what_is_not_known() -> None:
    teacher = Counted(tiny_student(16, 7))
    kl = Objective(uses([{"use": "kl"}], "losses"), lambda: teacher)
    known = teacher.outputs(INPUTS)
    before = Counted.asked
    online, given = kl(tiny_student(), INPUTS, TARGETS), kl(tiny_student(), INPUTS, TARGETS, known)
    assert Counted.asked == before + 1
    assert torch.equal(online["kl"], given["kl"])
    objective({"use": "cross_entropy"})(tiny_student(), INPUTS, TARGETS)


def test_projectors_are_drawn_from_the_seed_and_learn() -> None:
    made = [objective(HINT, HINT) for _ in range(3)]
    before = torch.get_rng_state()
    for one, seed in zip(made, (1, 1, 2), strict=True):
        one.prepare(tiny_student(), INPUTS, TARGETS, seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = ([*one.projectors.parameters()] for one in made)
    assert [list(p.shape) for p in first] == [[32, 8, 1, 1], [32], [32, 8, 1, 1], [32]]
    assert all(map(torch.equal, first, same))
    assert not torch.equal(first[0], other[0])
    sum(made[0](tiny_student(), INPUTS, TARGETS).values()).backward()
    assert all(p.grad is not None for p in first)


def test_wrong_names_of_modules_are_said_with_the_nearest() -> None:
    for field, whose in (("student", "student"), ("teacher", "teacher")):
        with pytest.raises(UserError, match=f'the {whose} has no module "blocc"\nhint: did you mean "block"'):
            objective({**HINT, field: "blocc"}).prepare(tiny_student(), INPUTS, TARGETS, 0)


def test_a_teacher_of_other_classes_is_said_with_both_shapes() -> None:
    with pytest.raises(UserError, match=r"teacher gives logits \[6, 5\], the student \[6, 4\]"):
        objective({"use": "kl"}, teacher=TinyNet(8, classes=5)).prepare(tiny_student(), INPUTS, TARGETS, 0)


def test_a_loss_without_a_gradient_is_named() -> None:
    frozen = tiny_student().requires_grad_(False)
    with pytest.raises(EdgekdError, match='the loss "kl" has no gradient'):
        objective({"use": "kl"})(frozen, INPUTS, TARGETS)


def test_an_unknown_loss_and_a_loss_that_wants_nonsense_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match='no losses named "kll"\nhint: did you mean "kl"'):
        objective({"use": "kll"})
    plugin = tmp_path / "odd.py"
    plugin.write_text(
        "from dataclasses import dataclass\n__all__ = ['Odd']\n@dataclass(frozen=True)\nclass Odd:\n    wants = 'luck'\n"
    )
    monkeypatch.setattr(registry, "_plugins", {"losses": {"odd": plugin}})
    with pytest.raises(UserError, match=r"odd\.py: `wants` is 'luck'\nhint: known: features, labels, logits"):
        objective({"use": "odd"})
