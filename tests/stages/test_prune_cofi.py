"""CoFi in the prune stage: a recipe line, the size that it asks for, an encoder that is smaller, and a run that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import Bert, saved, taught, texts, tokens
from tiny import accuracy, tiny_context, tiny_saved

from edgekd import registry
from edgekd.errors import UserError
from edgekd.stage import Context
from edgekd.stages.prune import Prune
from edgekd.student import Student
from edgekd.teachers.module import Module
from edgekd.training.train import logits_of

torch.set_num_threads(1)
FIELDS: dict[str, Any] = {
    "criterion": {"use": "cofi", "epochs": 12, "lr": 0.5, "layerwise": 0.1},
    "ratio": 0.6,
    "epochs": 2,
    "batch": 8,
    "lr": 5e-3,
}


def context_in(folder: Path, **changes: Any) -> Context:
    return tiny_context(folder, data=texts(), teacher=Module(taught(Bert, 7)), **changes)


def pruned(folder: Path, fields: dict[str, Any] = FIELDS, **changes: Any) -> tuple[Student, dict[str, Any]]:
    student = saved(folder / "in", Bert)
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    stage: Prune = registry.build("stages", "prune", fields)
    stage.check()
    return Student(out, student.factory), stage.run(student, context_in(folder, **changes), out)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, dict[str, Any]]:
    return pruned(tmp_path_factory.mktemp("cofi"))


def test_the_size_that_was_asked_for_is_reached(done: tuple[Student, dict[str, Any]]) -> None:
    _, facts = done
    density = facts["density"]
    assert density["target"] == pytest.approx(0.4)
    assert density["expected"] == pytest.approx(0.4, abs=0.1)
    assert density["reached"] == pytest.approx(0.4, abs=0.12)
    assert facts["pruned"]["macs"] < 0.7 * facts["before"]["macs"]
    sizes = [epoch["terms"] for epoch in facts["masks"]["epochs"]]
    assert {"cross_entropy", "kl", "size", "layers"} == set(sizes[0])
    assert facts["masks"]["best"] == 11, "the last epoch counts: the first ones had hardly begun to prune"


def test_what_is_left_is_an_ordinary_smaller_network(done: tuple[Student, dict[str, Any]]) -> None:
    student, facts = done
    (edit,) = student.edits
    assert (edit["criterion"], edit["ratio"]) == ("cofi", 0.6)
    network = student.network()
    inputs, targets = texts().validation
    score = accuracy(logits_of(network, inputs).numpy(), targets.numpy())
    assert score == facts["recovered"]["validation"] >= facts["before"]["validation"] - 0.25
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == facts["pruned"]["parameters"] < facts["before"]["parameters"]
    assert not any("parametrizations" in name for name in student.weights())


def test_killed_while_masks_are_learned_it_goes_on_to_the_same_bits(
    tmp_path: Path, done: tuple[Student, dict[str, Any]]
) -> None:
    straight, facts = done
    asked = 0

    def interrupted(outputs: np.ndarray, targets: np.ndarray) -> float:
        nonlocal asked
        asked += 1
        if asked in (4, 18):  # among the epochs of the masks, then among those of the recovery
            raise KeyboardInterrupt
        return accuracy(outputs, targets)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pruned(tmp_path, metric=interrupted)
        torch.manual_seed(99)
    resumed, again = pruned(tmp_path, metric=interrupted)
    assert asked == 22, "an epoch that was finished is not trained again"
    assert resumed.edits == straight.edits
    weights = straight.weights()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.weights().items())
    assert again == facts


def test_layers_that_the_criterion_misses_least_go_whole(tmp_path: Path) -> None:
    fields = {"criterion": "taylor", "ratio": 0.25, "layers": 2, "epochs": 0, "samples": 8}
    student, facts = pruned(tmp_path, fields)
    assert facts["removed"] == sorted(student.edits[0]["removed"])
    assert len([part for part in facts["removed"] if part.endswith("dense")]) == 2
    network = student.network()
    with torch.no_grad():
        assert network(tokens()).shape == (3, 3)
    with pytest.raises(UserError, match="layers: 5 cannot go, of 4 residual branches"):
        pruned(tmp_path / "more", {**fields, "layers": 5})
    with pytest.raises(UserError, match="gives all of them the same score"):
        pruned(tmp_path / "alike", {**fields, "criterion": "magnitude"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": None, "budget": {"size": "0.5x"}}, "budget: not with criterion"),
        ({"optimizer": "sgd"}, "optimizer: not with criterion"),
        ({"layers": 1}, "layers: not with criterion"),
        ({"criterion": {"use": "cofi", "density": 0.5}}, "density: it is what `ratio` leaves"),
        ({"criterion": {"use": "cofi", "epoch": 5}}, 'has no field "epoch"'),
        ({"criterion": {"epochs": 5}}, "the table has no `use`"),
        ({"ratio": None, "budget": {"latency": "0.5x"}, "layers": 1}, "layers: a latency budget chooses widths only"),
        ({"losses": [{"use": "kl", "from": {"average": 0.9}}]}, "losses: not with criterion"),
    ],
)
def test_wrong_fields_are_said_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.build("stages", "prune", {**FIELDS, **fields}).check()
    assert message in caught.value.message


def test_a_student_without_branches_is_an_error_that_says_so(tmp_path: Path) -> None:
    student = tiny_saved(tmp_path / "in")
    with pytest.raises(UserError, match="no attention or feed-forward layers") as caught:
        Prune(**FIELDS).run(student, tiny_context(tmp_path), tmp_path / "out")
    assert "teacher_gap" in caught.value.hint
