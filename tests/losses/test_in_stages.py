"""Losses on modules in the stages: distillation and recovery train with them, quantization says that it cannot."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_context, tiny_saved

from edgekd import registry
from edgekd.compared import MODULES
from edgekd.errors import UserError
from edgekd.objective import check
from edgekd.stage import uses
from edgekd.stages.prune import Prune
from edgekd.student import Student

ON_MODULES = [name for name in registry.names("losses") if registry.constant("losses", name, "wants") in MODULES]
IMAGES = {"attention_relations", "class_attention"}
"""Losses that want other features than a plain network has."""


def test_a_pruned_student_recovers_by_any_of_them(tmp_path: Path) -> None:
    """All at once, on a network that has half of its channels; what is written is the student alone, and can be built again."""
    losses = tuple({"use": name} for name in ON_MODULES if name not in IMAGES)
    out = tmp_path / "out"
    out.mkdir()
    given = tiny_saved(tmp_path / "in", trained=True)
    facts = Prune(ratio=0.5, criterion="magnitude", losses=losses, epochs=1, batch=64).run(
        given, tiny_context(tmp_path), out
    )
    (epoch,) = facts["recovery"]["epochs"]
    assert epoch["terms"].keys() == {loss["use"] for loss in losses}
    student = Student(out, given.factory)
    assert student.weights().keys() == given.weights().keys()
    assert sum(v.numel() for v in student.weights().values()) < 0.6 * sum(v.numel() for v in given.weights().values())
    assert torch.isfinite(student.network()(student.example(2))).all()


@pytest.mark.parametrize("name", ON_MODULES)
def test_a_quantized_program_has_no_modules_for_them(name: str) -> None:
    with pytest.raises(UserError, match=f'"{name}" wants features, and a quantized program keeps no modules'):
        check(uses([{"use": name}], "losses"), batch=8, modules=False)
