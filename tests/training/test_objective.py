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
from edgekd.losses.dkd import Dkd
from edgekd.losses.kl import Kl
from edgekd.stage import uses
from edgekd.teacher import Teacher
from edgekd.teachers.module import Module
from edgekd.training.objective import Objective
from edgekd.training.terms import check

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


def test_a_weight_goes_from_one_value_to_another() -> None:
    """From 2 to 0.5: after half of the training 1.25. Nothing of it is left at the end of one that goes to zero."""
    student = tiny_student().eval()
    value = CrossEntropy()(student(INPUTS), TARGETS)
    fading = objective({"use": "cross_entropy", "weight": [2, 0.5]})
    for progress, weight in ((0.0, 2.0), (0.5, 1.25), (1.0, 0.5)):
        found = fading(student, INPUTS, TARGETS, progress=progress)["cross_entropy"]
        torch.testing.assert_close(found, weight * value)
    for wrong in ([0, 0], [1], [1, 2, 3], [1, -1], [1, float("nan")], True, "much"):
        with pytest.raises(UserError, match=r'weight of "kl" is .*\nhint: a number above zero, or two'):
            objective({"use": "kl", "weight": wrong})


def test_samples_without_a_label_teach_by_the_teacher_only() -> None:
    """Two of the batch have labels: those that want labels see these two, the teacher's divergence sees all."""
    student, teacher = tiny_student().eval(), tiny_student(16, 7).eval()
    some = torch.full_like(TARGETS, -1)
    some[1:3] = TARGETS[1:3]
    both = objective({"use": "cross_entropy"}, {"use": "dkd"}, {"use": "kl"}, {"use": "crd", "negatives": 4})
    both.prepare(student, INPUTS, torch.full_like(TARGETS, -1), 0)
    terms, logits, theirs = both(student, INPUTS, some), student(INPUTS), teacher(INPUTS)
    torch.testing.assert_close(terms["cross_entropy"], CrossEntropy()(logits[1:3], TARGETS[1:3]))
    torch.testing.assert_close(terms["dkd"], Dkd()(logits[1:3], theirs[1:3], labels=TARGETS[1:3]))
    torch.testing.assert_close(terms["kl"], Kl()(logits, theirs))
    none = both(student, INPUTS, torch.full_like(TARGETS, -1))
    assert none["cross_entropy"].item() == none["dkd"].item() == 0
    assert none["kl"].item() == terms["kl"].item()
    sum(none.values()).backward()  # type: ignore[union-attr]


def test_losses_on_modules_see_labelled_samples_only_if_they_want_labels() -> None:
    """Lists of features, classifiers and filters: the same as of a batch of the labelled samples alone."""
    student = tiny_student().eval()
    names = ("auxiliary_heads", "layer_distribution", "prototype", "task_filter", "structured", "dual_head")
    all_of_them = objective(*({"use": name} for name in names))
    all_of_them.prepare(student, INPUTS, TARGETS, 0)
    some = torch.full_like(TARGETS, -1)
    some[1:4] = TARGETS[1:4]
    found = all_of_them(student, INPUTS, some, progress=0.5)
    alone = all_of_them(student, INPUTS[1:4], TARGETS[1:4], progress=0.5)
    for name in names[:4]:
        torch.testing.assert_close(found[name], alone[name])
    for name in names[4:]:
        assert not torch.allclose(found[name], alone[name])
    assert all_of_them.pairs["layer_distribution"] == ("block, down", "block, down")
    assert all_of_them.pairs["prototype"] == ("down", "down")


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


def test_for_features_alone_the_teacher_runs_no_further_than_the_last_of_them() -> None:
    teacher, ran = tiny_student(16, 7), []
    for name in ("stem", "block", "down", "head"):
        teacher.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    losses = [{"use": "attention_map", "student": "block", "teacher": "block"}, {"use": "kl"}]
    both, student = objective(*losses, teacher=teacher), tiny_student().eval()
    online = both(student, INPUTS, TARGETS)
    assert ran == ["stem", "block", "down", "head"]
    ran.clear()
    given = both(student, INPUTS, TARGETS, tiny_student(16, 7).eval()(INPUTS).detach())
    assert ran == ["stem", "block"]
    assert all(torch.equal(given[name], online[name]) for name in ("attention_map", "kl"))
    ran.clear()
    alone = objective(losses[0], teacher=teacher)(student, INPUTS, TARGETS)
    assert ran == ["stem", "block"] and torch.equal(alone["attention_map"], online["attention_map"])


def test_projectors_are_drawn_from_the_seed_and_learn() -> None:
    made = [objective(HINT, HINT) for _ in range(3)]
    before = torch.get_rng_state()
    for one, seed in zip(made, (1, 1, 2), strict=True):
        one.prepare(tiny_student(), INPUTS, TARGETS, seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = ([*one.learned.parameters()] for one in made)
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
    with pytest.raises(UserError, match=r"teacher gives logits \[6, 5\], the student \[6, 4\]"):
        objective(HINT, teacher=TinyNet(8, classes=5)).prepare(tiny_student(), INPUTS, TARGETS, 0)


def test_a_loss_without_a_gradient_is_named() -> None:
    frozen = tiny_student().requires_grad_(False)
    with pytest.raises(EdgekdError, match='the loss "kl" has no gradient'):
        objective({"use": "kl"})(frozen, INPUTS, TARGETS)


def test_an_unknown_loss_and_a_loss_that_wants_nonsense_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match='no loss named "kll"\nhint: did you mean "kl"'):
        objective({"use": "kll"})
    plugin = tmp_path / "odd.py"
    plugin.write_text(
        "from dataclasses import dataclass\n__all__ = ['Odd']\n@dataclass(frozen=True)\nclass Odd:\n    wants = 'luck'\n"
    )
    monkeypatch.setattr(registry, "_plugins", {"losses": {"odd": plugin}})
    with pytest.raises(
        UserError, match=r"odd\.py: `wants` is 'luck'\nhint: known: branch, features, head, labels, logits, "
    ):
        objective({"use": "odd"})


def test_modules_that_are_not_named_are_paired(tmp_path: Path) -> None:
    both = objective({"use": "hint"}, {"use": "attention_map", "student": "stem"})
    both.prepare(tiny_student(), INPUTS, TARGETS, 0)
    assert both.pairs == {"hint": ("down", "down"), "attention_map": ("stem", "stem")}
    named = objective({"use": "hint", "student": "down", "teacher": "down"})
    named.prepare(tiny_student(), INPUTS, TARGETS, 0)
    assert named.pairs == {}
    student = tiny_student()
    assert torch.equal(both(student, INPUTS, TARGETS)["hint"], named(student, INPUTS, TARGETS)["hint"])


@pytest.mark.parametrize("names", [{}, {"student": "down", "teacher": "down"}])
def test_a_black_box_has_no_features(names: dict[str, str]) -> None:
    class Box(Teacher):
        def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(inputs), 4)

    with pytest.raises(UserError, match="a Box gives logits only, not features\nhint: use a torch teacher"):
        Objective(uses([{"use": "hint", **names}], "losses"), Box).prepare(tiny_student(), INPUTS, TARGETS, 0)


def test_a_loss_that_reads_only_what_is_frozen_is_named() -> None:
    """The projector has a gradient, the student has none: found before any training."""
    student = tiny_student()
    student.stem.requires_grad_(False)
    with pytest.raises(UserError, match='the loss "hint" has no gradient.*\nhint: name a later module'):
        objective({"use": "kl"}, {**HINT, "student": "stem"}).prepare(student, INPUTS, TARGETS, 0)


def test_a_teacher_that_is_not_finite_is_said_with_what_is_not() -> None:
    broken = tiny_student(16, 7)
    broken.block.bn2.bias.data[0] = float("inf")  # type: ignore[union-attr]
    with pytest.raises(UserError, match='the teacher\'s output of "block" is NaN or infinite'):
        objective({**HINT, "teacher": "block"}, teacher=broken.eval()).prepare(tiny_student(), INPUTS, TARGETS, 0)
    with pytest.raises(UserError, match="the teacher's logits are NaN or infinite\nhint: check its weights"):
        objective({"use": "kl"}, teacher=broken.eval()).prepare(tiny_student(), INPUTS, TARGETS, 0)


WANTING = '''
"""A loss that wants all there is, for a test."""
from dataclasses import dataclass
import torch
__all__ = ["Wanting"]
class Seen(torch.nn.Module):
    def __init__(self, count):
        super().__init__()
        self.register_buffer("times", torch.zeros(count))
@dataclass(frozen=True)
class Wanting:
    wants = "logits"
    also = ("labels", "progress", "samples")
    least = 3
    def state(self, student, teacher, count):
        return Seen(count)
    def __call__(self, student, teacher, *, labels, progress, samples, state):
        if state.training:
            state.times[samples] += 1
        return progress * student[range(len(labels)), labels].square().mean()
'''


def wanting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wanting.py").write_text(WANTING)
    monkeypatch.setattr(registry, "_plugins", {"losses": {"wanting": tmp_path / "wanting.py"}})


def test_a_loss_is_given_labels_progress_samples_and_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanting(tmp_path, monkeypatch)
    made, student = objective({"use": "wanting"}), tiny_student()
    made.prepare(student, INPUTS[:3], TARGETS[:3], 0, count=100)
    state = made.learned["state"]["wanting"]  # type: ignore[index]
    assert state.times.tolist() == [0] * 100  # a trial leaves it as it was
    samples = torch.tensor([7, 3, 99])
    found = made(student, INPUTS[:3], TARGETS[:3], progress=0.5, samples=samples)["wanting"]
    expected = 0.5 * student(INPUTS[:3]).gather(1, TARGETS[:3, None]).square().mean()
    torch.testing.assert_close(found, expected)
    assert state.times.nonzero().flatten().tolist() == [3, 7, 99]


def test_a_batch_too_small_for_a_loss_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanting(tmp_path, monkeypatch)
    with pytest.raises(UserError, match='the loss "wanting" needs a batch of 3 or more, this one has 2'):
        objective({"use": "wanting"})(tiny_student(), INPUTS[:2], TARGETS[:2])
    with pytest.raises(UserError, match='the loss "wanting" compares the samples of a batch, 3 at least; batch is 2'):
        check(uses([{"use": "wanting"}], "losses"), batch=2)
    check(uses([{"use": "wanting"}], "losses"), batch=3)


def test_a_stage_of_graphs_refuses_losses_that_divide_a_layer() -> None:
    with pytest.raises(
        UserError, match='"dual_head" divides a layer, and the grids of a quantized student are for whole'
    ):
        check(uses([{"use": "kl"}, {"use": "dual_head"}], "losses"), batch=8, traced=True)
    check(uses([{"use": "kl"}, {"use": "attention_map"}], "losses"), batch=8, traced=True)
