"""Before the first stage trains, what its losses want is tried: the recipe's line, the nearest name, nothing trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import new_project

from edgekd import api
from edgekd.errors import UserError
from edgekd.pipeline.run import run

LOSSES = '{ use = "kl", temperature = 4.0, weight = 0.5 }]'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe without weights; student and teacher are made once, by whichever test comes first."""
    return new_project(tmp_path_factory.mktemp("trial") / "trialnet")


def refused(project: Path, old: str, new: str) -> UserError:
    """What is raised for the recipe with one text replaced; no stage has left anything in the store."""
    text = (project).read_text()
    assert old in text
    recipe = project.with_name("changed.toml")
    recipe.write_text(text.replace(old, new, 1))
    plan = api.prepare(recipe, store=project.parent / "store", quiet=True)
    with pytest.raises(UserError) as caught:
        run(plan)
    assert all(plan.store.get(plan.steps[name].key) is None for name in plan.trained)
    return caught.value


def test_a_module_that_does_not_exist(project: Path) -> None:
    error = refused(project, LOSSES, '{ use = "hint", student = "4", teacher = "44" }]')
    assert error.message.endswith('changed.toml:21: stage.0.losses: the teacher has no module "44"')
    assert error.hint == 'did you mean "4"?'


def test_a_later_stage_is_tried_before_the_first_trains(project: Path) -> None:
    prune = "ratio = 0.25\nepochs = 1"
    error = refused(project, prune, f'{prune}\nlosses = [{{ use = "attention_map", student = "1", teacher = "8" }}]')
    assert 'changed.toml:29: stage.1.losses: attention_map: the teacher\'s "8" gives [2, 96]' in error.message


def test_what_no_graph_can_learn_from_needs_no_network(project: Path) -> None:
    error = refused(project, 'losses = [{ use = "kl", temperature = 2.0 }]', 'losses = [{ use = "dual_head" }]')
    assert 'stage.2: the loss "dual_head" divides a layer, and the grids of a quantized student' in error.message


def test_modules_of_a_quantized_student_are_tried_too(project: Path) -> None:
    wrong = 'losses = [{ use = "hint", student = "44" }]'
    error = refused(project, 'losses = [{ use = "kl", temperature = 2.0 }]', wrong)
    assert 'stage.2.qat: the student has no module "44"' in error.message
