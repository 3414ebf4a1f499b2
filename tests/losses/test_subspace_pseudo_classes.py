"""Pseudo-classes: directions by hand, the divergence against SciPy, and a training that passes from one part to the other."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from tiny import tiny_context, tiny_saved, tiny_student
from torch.nn.functional import kl_div, log_softmax

from edgekd.losses.subspace_pseudo_classes import SubspacePseudoClasses
from edgekd.stages.distill import Distill
from edgekd.student import Student
from edgekd.training import checkpoint

# Two classes, apart in x by 20. Within, the first varies by ±2 in y, the second by ±3 in z: variances 4 and 9.
EMBEDDINGS = torch.tensor([[10.0, 2.0, 0.0], [10.0, -2.0, 0.0], [-10.0, 0.0, 3.0], [-10.0, 0.0, -3.0]])
LOGITS = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
STUDENT = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0], [-1.0, 0.0]])
LOSS = SubspacePseudoClasses(directions=1, temperature=0.5)


def test_directions_worked_out_by_hand() -> None:
    """What lies between the classes is taken out; within, one standard deviation is 1, so each sample is at ±1."""
    state = LOSS.state(STUDENT, EMBEDDINGS, 4)
    LOSS(STUDENT, EMBEDDINGS, logits=LOGITS, state=state.eval())
    assert int(state.left) == 4  # only training changes it
    for half in (slice(0, 3), slice(3, 4)):
        assert not state.axes.any()
        LOSS(STUDENT[half], EMBEDDINGS[half], logits=LOGITS[half], state=state.train())
    torch.testing.assert_close(state.centres, torch.tensor([[10.0, 0.0, 0.0], [-10.0, 0.0, 0.0]]))
    torch.testing.assert_close(state.axes.abs()[..., 0], torch.tensor([[0.0, 1 / 2, 0.0], [0.0, 0.0, 1 / 3]]))
    # τ = 1/2: the two pseudo-classes of its own class have e² / (e² + e⁻²) and the rest
    shares = LOSS._shares(EMBEDDINGS, state).exp()[range(4), [0, 0, 1, 1]]
    high = math.exp(2) / (math.exp(2) + math.exp(-2))
    torch.testing.assert_close(shares.amax(1), torch.full((4,), high))
    found = state.axes.clone()
    LOSS(STUDENT, EMBEDDINGS * 3, logits=LOGITS, state=state)
    assert torch.equal(state.axes, found)  # found once


def test_first_the_classes_then_all_pseudo_classes() -> None:
    torch.manual_seed(0)
    state = LOSS.state(STUDENT, EMBEDDINGS, 4).train()
    before = LOSS(STUDENT, EMBEDDINGS, logits=LOGITS, state=state)
    assert state.branch is not None
    said = log_softmax(state.branch(STUDENT), 1).view(4, 2, 2)
    torch.testing.assert_close(
        before, kl_div(said.logsumexp(2), log_softmax(LOGITS, 1), reduction="batchmean", log_target=True)
    )
    after = LOSS(STUDENT, EMBEDDINGS, logits=LOGITS, state=state.eval())
    target = LOGITS.softmax(1)[..., None].double().numpy() * LOSS._shares(EMBEDDINGS, state).exp().double().numpy()
    np.testing.assert_allclose(target.sum((1, 2)), 1, rtol=1e-6)
    expected = rel_entr(target, said.exp().detach().double().numpy()).sum() / 4
    assert after.item() == pytest.approx(expected, rel=1e-5)
    assert after > before


def test_directions_are_those_of_most_variance_and_say_as_much_each() -> None:
    """Against NumPy's singular values: one class, six channels, the two first directions, whatever they are turned by."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)) * [5, 4, 1, 0.5, 0.2, 0.1] @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 3
    loss = SubspacePseudoClasses(directions=2)
    teacher, logits = torch.from_numpy(x).float(), torch.tensor([[5.0, 0.0]]).repeat(50, 1)
    state = loss.state(teacher, teacher, 50).train()
    loss(teacher, teacher, logits=logits, state=state)
    _, sizes, basis = np.linalg.svd(x - x.mean(0), full_matrices=False)
    scaled = basis[:2].T / sizes[:2] * math.sqrt(50)
    axes = state.axes[0].double().numpy()
    np.testing.assert_allclose(axes @ axes.T, scaled @ scaled.T, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(((x - x.mean(0)) @ axes).var(0), 1, rtol=1e-3)
    assert not state.axes[1].any()  # a class that the teacher never names has no pseudo-classes


def test_a_student_trains_with_it_and_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directions are found in the second epoch; a run that ended after the first finds the same, and gives the same student."""
    losses = ({"use": "kl"}, {"use": "subspace_pseudo_classes", "directions": 2})
    stage = Distill(losses=losses, epochs=3, batch=85)  # 255 of 256 an epoch: a last batch of one is left out

    def trained(folder: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
        (folder / "out").mkdir(parents=True, exist_ok=True)
        student = tiny_saved(folder / "in")
        facts = stage.run(student, tiny_context(folder), folder / "out")
        terms = [epoch["terms"]["subspace_pseudo_classes"] for epoch in facts["epochs"]]
        return Student(folder / "out", student.factory).weights(), terms

    whole, terms = trained(tmp_path / "whole")
    assert terms[2] > terms[0]  # at first the classes alone, then their parts count too
    assert whole.keys() == tiny_student().state_dict().keys()  # the branch is gone
    write = checkpoint.write

    def killed(*given: Any) -> None:
        write(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "killed")
    again, resumed = trained(tmp_path / "killed")
    assert resumed == terms
    assert all(torch.equal(value, whole[name]) for name, value in again.items())
