"""Which samples an epoch uses: by hand, by shares, and in a training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import noisy, tiny_context, tiny_data, tiny_saved

from edgekd.errors import UserError
from edgekd.stages.distill import Distill
from edgekd.training.selection import selected

TEACHER = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]).log()


def test_the_surest_of_each_class() -> None:
    """Classes 0, 0, 1, 0 at 0.9, 0.6, 0.8, 0.5: 0, 1/3, 0 and 2/3 of their classes are surer. The student is not asked."""

    def no_student() -> torch.Tensor:
        raise AssertionError("the student was asked")

    assert selected("confidence", 0.5, TEACHER, no_student, 0).tolist() == [0, 2]
    assert selected("confidence", 0.75, TEACHER, no_student, 0).tolist() == [0, 1, 2]
    assert len(selected("confidence", 0.01, TEACHER, no_student, 0)) == 1
    torch.manual_seed(0)
    logits = torch.randn(400, 3) + torch.tensor([1.0, 0.0, 0.0])
    chosen = selected("confidence", 0.25, logits, no_student, 0)
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


def trained(folder: Path, **fields: Any) -> dict[str, Any]:
    (folder / "out").mkdir(parents=True)
    losses = ({"use": "kl", "temperature": 2.0},)
    stage = Distill(losses=losses, epochs=6, batch=16, lr=2e-2, views=2, **fields)
    context = tiny_context(folder, data=replace(tiny_data(), augment=noisy))
    return stage.run(tiny_saved(folder / "in"), context, folder / "out")


@pytest.mark.parametrize("kind", ["confidence", "gap"])
def test_a_student_learns_from_what_is_selected(tmp_path: Path, kind: str) -> None:
    facts = trained(tmp_path / "once", select=kind, select_share=0.5)
    assert facts["epochs"][facts["best"]]["validation"] > 0.5  # of 0.25 by chance
    if kind == "gap":
        assert facts["epochs"] == trained(tmp_path / "again", select=kind, select_share=0.5)["epochs"]


def test_a_selection_needs_the_teachers_answers_of_the_whole_view(tmp_path: Path) -> None:
    for fields in ({"views": 0}, {"losses": ({"use": "cross_entropy"},)}):
        stage = Distill(**{"losses": ({"use": "kl"},), "epochs": 1, "select": "confidence", **fields})  # type: ignore[arg-type]
        context = tiny_context(tmp_path, data=replace(tiny_data(), augment=noisy))
        with pytest.raises(UserError, match='distill: select = "confidence" asks for the teacher\'s answer') as caught:
            stage.run(tiny_saved(tmp_path / str(len(fields))), context, tmp_path)
        assert "views" in caught.value.hint
