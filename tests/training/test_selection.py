"""Which samples an epoch uses: by hand, by shares, and in a training."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import noisy, tiny_context, tiny_data, tiny_saved

from edgekd.errors import UserError
from edgekd.stages.distill import Distill
from edgekd.training import selection
from edgekd.training.train import logits_of

TEACHER = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]).log()


def nobody() -> torch.Tensor:
    raise AssertionError("a student was asked")


def selected(
    kind: str,
    share: float,
    teacher: torch.Tensor,
    student: Callable[[], torch.Tensor] = nobody,
    seed: int = 0,
    targets: torch.Tensor | None = None,
    before: Callable[[], torch.Tensor] = nobody,
) -> torch.Tensor:
    """What is selected where nothing is labelled, unless it is said."""
    targets = torch.full((len(teacher),), -1) if targets is None else targets
    return selection.selected(kind, share, teacher, student, seed, targets, before)


def test_the_surest_of_each_class() -> None:
    """Classes 0, 0, 1, 0 at 0.9, 0.6, 0.8, 0.5: 0, 1/3, 0 and 2/3 of their classes are surer. The student is not asked."""
    assert selected("confidence", 0.5, TEACHER).tolist() == [0, 2]
    assert selected("confidence", 0.75, TEACHER).tolist() == [0, 1, 2]
    assert len(selected("confidence", 0.01, TEACHER)) == 1
    torch.manual_seed(0)
    logits = torch.randn(400, 3) + torch.tensor([1.0, 0.0, 0.0])
    chosen = selected("confidence", 0.25, logits)
    sure, first = logits.softmax(1).max(1)
    for label in range(3):
        own = chosen[first[chosen] == label]
        assert len(own) == pytest.approx(0.25 * int((first == label).sum()), abs=1)
        others = torch.tensor([i for i in range(400) if first[i] == label and i not in own.tolist()])
        assert sure[own].min() > sure[others].max()


def test_a_class_has_places_by_its_gap() -> None:
    """Two classes as large, the student three times less sure of the second: of few places it has 3/4 on average."""
    teacher = torch.tensor([[1.0, 0.0]] * 2000 + [[0.0, 1.0]] * 2000) * 50
    odds = torch.tensor([[0.9, 0.1]] * 2000 + [[0.7, 0.3]] * 2000).log()  # q(c) = 0.9 and 0.3
    found = [selected("gap", 0.02, teacher, lambda: odds, seed) for seed in range(50)]
    second = sum(int((indices >= 2000).sum()) for indices in found) / (50 * 80)
    assert second == pytest.approx(0.75, abs=0.03)  # four standard errors of 4000 draws
    assert torch.equal(found[0], selected("gap", 0.02, teacher, lambda: odds, 0))
    assert not torch.equal(found[0], found[1])
    assert len(found[0].unique()) == 80


def test_what_the_teacher_knows_and_a_small_network_does_not() -> None:
    """p(y) / r(y) is 9/5, 4/3, 8/5 and 5/9 for labels 0, 1, none and 0; without a label y is the teacher's class."""
    before = torch.tensor([[0.5, 0.5], [0.7, 0.3], [0.5, 0.5], [0.9, 0.1]]).log()
    targets = torch.tensor([0, 1, -1, 0])
    for share, expected in ((0.25, [0]), (0.5, [0, 2]), (0.75, [0, 1, 2])):
        assert selected("difference", share, TEACHER, targets=targets, before=lambda: before + 3).tolist() == expected
    numbers = torch.rand(4)  # the teacher's class for all of them: 9/5, 6/7, 8/5, 5/9
    assert selected("difference", 0.5, TEACHER, targets=numbers, before=lambda: before).tolist() == [0, 2]
    with pytest.raises(
        UserError, match="knew nothing before this training: its mean log-likelihood is -1.22 nats"
    ) as caught:
        selected("difference", 0.5, TEACHER, targets=torch.tensor([1, 1, 1, 1]), before=lambda: before)
    assert "a short stage on labels before it" in caught.value.hint


def test_a_core_set_is_spread_over_the_students_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ninety alike in one corner and ten elsewhere: a tenth holds one of the corner, and those that are far from each other."""
    torch.manual_seed(0)
    crowd = torch.tensor([[9.0, 0.0, 0.0]]) + 0.01 * torch.randn(90, 3)
    others = torch.tensor(
        [[0.0, 9, 0], [0, 0, 9], [0, 0, 0], [3, 3, 0], [0, 3, 3], [3, 0, 3], [1, 0, 0], [0, 1, 0], [0, 0, 2], [2, 2, 0]]
    )
    student = torch.cat([crowd, others])
    found = selected("coreset", 0.1, torch.zeros(100, 3), lambda: student)
    assert len(found.unique()) == 10
    assert (found < 90).sum() <= 2
    assert torch.equal(found, selected("coreset", 0.1, torch.zeros(100, 3), lambda: student))
    monkeypatch.setattr(selection, "POOL", 32)
    pooled = selected("coreset", 0.13, torch.zeros(100, 3), lambda: student)
    assert len(pooled.unique()) == 13 and torch.equal(pooled, pooled.sort().values)
    everything = selected("coreset", 1.0, torch.zeros(100, 3), lambda: student)
    assert everything.tolist() == list(range(100))


def turned(*degrees: float) -> torch.Tensor:
    """Log-probabilities whose rows, less their mean, point so in the plane that three of them have."""
    plane = torch.tensor([[2.0, -1.0, -1.0], [0.0, math.sqrt(3), -math.sqrt(3)]]) / math.sqrt(6)
    radians = torch.tensor(degrees).deg2rad()
    return (torch.stack([radians.cos(), radians.sin()], 1) @ plane).log_softmax(1)


def test_a_sample_weighs_what_sets_its_nearest_class_apart() -> None:
    """Labelled at 0° and 120°: at 10° the cosines are cos 10° and cos 110°, at 60° both are the same, at 240° there is no class."""
    teacher, targets = turned(0, 120, 10, 60, 240, 90), torch.tensor([0, 1, -1, -1, -1, -1])
    cosines = torch.tensor([[0.0, 120], [120, 0], [10, 110], [60, 60], [120, 120], [90, 30]]).deg2rad().cos()
    cosines[0, 0] = cosines[1, 1] = -1  # not with itself
    expected = (cosines[:, 0] - cosines[:, 1]).abs() + torch.tensor([4.0, 4, 0, 0, 0, 0])
    torch.testing.assert_close(selection._weights(teacher, targets, 0), expected, rtol=1e-4, atol=1e-4)
    assert selected("weight_aware", 0.5, teacher, targets=targets).tolist() == [0, 1, 2]
    assert selected("weight_aware", 0.67, teacher, targets=targets).tolist() == [0, 1, 2, 5]
    all_labelled = selection._weights(turned(0, 5, 120, 125), torch.tensor([0, 0, 1, 1]), 0)
    near, far, further = (math.cos(math.radians(degrees)) for degrees in (5, 115, 120))
    assert all_labelled.tolist() == pytest.approx([near - further, near - far, near - far, near - further], abs=1e-4)
    for none in (torch.full((6,), -1), torch.tensor([0, 0, -1, -1, -1, -1]), torch.rand(6)):
        with pytest.raises(UserError, match='select = "weight_aware" compares samples with labelled ones'):
            selected("weight_aware", 0.5, teacher, targets=none)


def trained(folder: Path, **fields: Any) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True)
    losses = ({"use": "kl", "temperature": 2.0},)
    stage = Distill(losses=losses, epochs=6, batch=16, lr=2e-2, views=2, **fields)
    context = tiny_context(folder, data=replace(tiny_data(), augment=noisy))
    return stage.run(tiny_saved(folder / "in"), context, folder / "out")


@pytest.mark.parametrize("kind", ["confidence", "gap", "coreset", "weight_aware"])
def test_a_student_learns_from_what_is_selected(tmp_path: Path, kind: str) -> None:
    facts = trained(tmp_path / "once", select=kind, select_share=0.5)
    assert facts["epochs"][facts["best"]]["validation"] > 0.5  # of 0.25 by chance
    if kind in ("gap", "coreset"):
        assert facts["epochs"] == trained(tmp_path / "again", select=kind, select_share=0.5)["epochs"]


def test_a_student_is_compared_with_itself_as_the_stage_before_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it begins again, and where a killed training goes on; at first it has to know something."""
    asked: list[torch.Tensor] = []
    original = selection.selected

    def watched(kind: str, *given: Any) -> torch.Tensor:
        asked.append(given[-1]())
        return original(kind, *given)

    monkeypatch.setattr("edgekd.training.train.selected", watched)
    losses, given = ({"use": "kl", "temperature": 2.0},), tiny_saved(tmp_path / "in", trained=True)
    expected = logits_of(given.network(), tiny_data().train[0])
    for fresh in (False, True):
        out = tmp_path / f"out-{fresh}"
        out.mkdir()
        stage = Distill(losses=losses, epochs=2, batch=64, select="difference", select_share=0.5, fresh=fresh)
        stage.run(given, tiny_context(tmp_path / f"work-{fresh}"), out)
    assert len(asked) == 4
    for found in asked:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="the student knew nothing before this training"):
        stage.run(tiny_saved(tmp_path / "new"), tiny_context(tmp_path / "work-new"), tmp_path)


def test_a_selection_needs_the_teachers_answers_of_the_whole_view(tmp_path: Path) -> None:
    for fields in ({"views": 0}, {"losses": ({"use": "cross_entropy"},)}):
        stage = Distill(**{"losses": ({"use": "kl"},), "epochs": 1, "select": "confidence", **fields})  # type: ignore[arg-type]
        context = tiny_context(tmp_path, data=replace(tiny_data(), augment=noisy))
        with pytest.raises(UserError, match='distill: select = "confidence" asks for the teacher\'s answer') as caught:
            stage.run(tiny_saved(tmp_path / str(len(fields))), context, tmp_path)
        assert "views" in caught.value.hint
