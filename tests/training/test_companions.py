"""A student that learns from its own average and from a peer; and from several teachers: it goes on to the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from short_training import NOISY, SHORT, run, same, stop_at
from tiny import TinyNet, tiny_context, tiny_data, tiny_student
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.cross_entropy import CrossEntropy
from edgekd.losses.kl import Kl
from edgekd.stage import taught, uses
from edgekd.teachers.ensemble import Ensemble
from edgekd.teachers.module import Module
from edgekd.training.companions import Companions
from edgekd.training.objective import Objective
from edgekd.training.terms import check

INPUTS, TARGETS = (x[:6] for x in tiny_data().train)
AVERAGE = {"use": "kl", "from": {"average": 0.5}}
PEER = {"use": "kl", "temperature": 2.0, "from": "peer"}


def nobody() -> Module:
    raise AssertionError("the teacher was asked for")


def objective(*tables: dict[str, Any]) -> Objective:
    return Objective(uses(tables, "losses"), nobody, lambda seed: tiny_student(seed=seed % 1000))


def test_the_average_follows_by_hand() -> None:
    """α = 0, then min(0.5, 1/2), then min(0.5, 2/3): of 1, 3, 7 it is 1, 2, 4.5; what is not a parameter is as it is."""
    model = nn.BatchNorm1d(1)
    companions = Companions()
    companions.make({"average": 0.5}, model, nobody)
    average = companions.networks["average"]
    for value, expected in ((1.0, 1.0), (3.0, 2.0), (7.0, 4.5)):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(-value)
        companions.follow(model)
        assert average.weight.item() == expected
        assert average.running_mean.item() == -value
    assert not average.weight.requires_grad


def test_the_early_average_is_the_mean_of_what_was_seen() -> None:
    model = nn.Linear(1, 1, bias=False)
    companions = Companions()
    companions.make({"average": 0.999}, model, nobody)
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            model.weight.fill_(value)
        companions.follow(model)
    assert companions.networks["average"].weight.item() == pytest.approx(3.0)


def test_student_and_peer_learn_from_each_other_and_from_the_labels() -> None:
    student = tiny_student().eval()
    both = objective({"use": "cross_entropy", "weight": 0.5}, PEER)
    both.prepare(student, INPUTS, TARGETS, 7)
    both.learned.eval()
    peer = both.companions.networks["peer"]
    assert not torch.equal(peer.head.weight, student.head.weight)
    terms = both(student, INPUTS, TARGETS)
    ours, theirs, kl = student(INPUTS), peer(INPUTS), Kl(temperature=2.0)
    assert list(terms) == ["cross_entropy", "kl", "peer"]
    torch.testing.assert_close(terms["kl"], kl(ours, theirs))
    torch.testing.assert_close(terms["peer"], 0.5 * CrossEntropy()(theirs, TARGETS) + kl(theirs, ours))
    terms["kl"].backward(retain_graph=True)
    assert peer.head.weight.grad is None and student.head.weight.grad is not None
    student.zero_grad()
    terms["peer"].backward()
    assert student.head.weight.grad is None and peer.head.weight.grad is not None


def test_what_is_asked_of_the_student_itself_needs_no_teacher() -> None:
    assert not taught(uses([AVERAGE, PEER, {"use": "cross_entropy"}], "losses"))
    assert taught(uses([AVERAGE, {"use": "kl"}], "losses"))


@pytest.mark.parametrize(
    "wrong", ["self", {"average": 1.0}, {"average": "much"}, {"mean": 0.5}, 3, {"peer": {}}, {"peer": 48}]
)
def test_whom_it_cannot_learn_from_is_said(wrong: Any) -> None:
    with pytest.raises(UserError, match=r'losses: from of "kl" is .*\nhint: "teacher", "average", "peer"'):
        uses([{"use": "kl", "from": wrong}], "losses")


LARGER = {"use": "kl", "temperature": 2.0, "from": {"peer": {"width": 12}}}


def test_a_larger_peer_is_a_teacher_that_learns_from_the_student_too() -> None:
    def made(seed: int, **arguments: Any) -> nn.Module:
        return tiny_student(seed=seed % 1000, **arguments)

    student = tiny_student().eval()
    both = Objective(uses([{"use": "cross_entropy"}, LARGER], "losses"), nobody, made)
    both.prepare(student, INPUTS, TARGETS, 7)
    both.learned.eval()
    larger = both.companions.networks["peer"]
    assert larger.head.in_features == 24 and student.head.in_features == 16
    terms = both(student, INPUTS, TARGETS)
    torch.testing.assert_close(terms["kl"], Kl(temperature=2.0)(student(INPUTS), larger(INPUTS)))
    terms["peer"].backward()
    assert larger.stem[0].weight.grad is not None and student.head.weight.grad is None
    with pytest.raises(UserError, match=r"losses learn from two peers, \{\} and \{'width': 12\}"):
        check(uses([PEER, LARGER], "losses"), 32)
    other = Objective(uses([PEER], "losses"), nobody, lambda seed: TinyNet(8, classes=5))
    with pytest.raises(UserError, match=r"the peer gives logits \[6, 5\], the student \[6, 4\]"):
        other.prepare(student, INPUTS, TARGETS, 7)


def test_a_student_has_one_average() -> None:
    again = {"use": "js", "from": {"average": 0.99}}
    with pytest.raises(UserError, match="averages of the student with decays 0.5, 0.99: it has one") as caught:
        check(uses([AVERAGE, again], "losses"), 32)
    assert caught.value.hint == "give them the same decay"
    check(uses([AVERAGE, {**again, "from": {"average": 0.5}}], "losses"), 32)


def test_features_of_a_peer_are_not_to_be_had() -> None:
    with pytest.raises(UserError, match='the loss "hint" wants features: it cannot learn from the student\'s peer'):
        check(uses([{"use": "hint", "from": "peer"}], "losses"), 32)
    with pytest.raises(UserError, match="the student's average, which a quantized program has not"):
        check(uses([AVERAGE], "losses"), 32, traced=True)


CASES = {
    "average": [{"use": "cross_entropy"}, AVERAGE],
    "peer": [{"use": "cross_entropy"}, PEER],
    "larger": [{"use": "cross_entropy"}, LARGER],
    "several": [{"use": "teacher_dropping"}, {"use": "teacher_routing"}, {"use": "teacher_selection"}, {"use": "kl"}],
}


@pytest.mark.parametrize("losses", CASES.values(), ids=list(CASES))
def test_interrupted_it_goes_on_to_the_same_bits(tmp_path: Path, losses: list[dict[str, Any]]) -> None:
    teacher = Ensemble((Module(tiny_student(16, 7, trained=True)), Module(tiny_student(12, 8, trained=True))))
    whole, history = run(tiny_context(tmp_path / "whole", data=NOISY, teacher=teacher), SHORT, *losses)
    context = tiny_context(tmp_path / "cut", data=NOISY, teacher=teacher)
    for stop in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(context, SHORT, *losses, on_epoch=stop_at(stop))
    torch.manual_seed(99)
    seen: list[int] = []
    resumed, resumed_history = run(context, SHORT, *losses, on_epoch=seen.append)
    assert seen == [2]
    assert same(whole, resumed)
    assert history == resumed_history
    assert history["epochs"][-1]["loss"] < history["epochs"][0]["loss"]
    assert whole.state_dict().keys() == TinyNet().state_dict().keys()
