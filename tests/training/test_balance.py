"""Losses balanced by gradient norms: by hand, in an objective, and in a training that is cut."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from short_training import KL, LABELS, NOISY, SHORT, run, same, stop_at
from tiny import tiny_context, tiny_data, tiny_student
from torch import nn

from edgekd.stage import uses
from edgekd.teachers.module import Module
from edgekd.training.balance import EVERY, Balance
from edgekd.training.objective import Objective
from edgekd.training.world import World

INPUTS, TARGETS = (x[:16] for x in tiny_data().train)


def test_factors_by_hand() -> None:
    """Of w = (3, 4), |w|² has the gradient (6, 8), and w_0 has (1, 0): norms 10 and 1, whose mean is 5.5."""
    w, unused = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.zeros(2))
    balance = Balance(["square", "first", "none"])
    assert balance.factors() == {"square": 1.0, "first": 1.0, "none": 1.0}
    values = {"square": w.square().sum(), "first": w[0] + 0 * unused.sum(), "none": 0.0 * w.sum()}
    balance.look(values, [w, unused], World())
    assert balance.factors() == pytest.approx({"square": 0.55, "first": 5.5, "none": 1.0})
    for _ in range(EVERY - 1):
        balance.look({}, [w], World())  # between two looks nothing is computed
    balance.look({**values, "first": 2 * w[0]}, [w, unused], World())
    assert balance.norms.tolist() == pytest.approx([10, 1.1, 0])


def test_weights_are_shares_of_the_gradient() -> None:
    """A loss a thousand times as large, and one on features: their gradients are as their weights to each other."""
    hint = {"use": "hint", "student": "block", "teacher": "block", "weight": 0.25}
    objective = Objective(uses([LABELS, {**KL, "weight": 1000}, hint], "losses"), lambda: Module(tiny_student(16, 7)))
    student = tiny_student().eval()
    objective.balance()
    objective.prepare(student, INPUTS, TARGETS, 0)
    norms = {}
    for name, value in objective(student, INPUTS, TARGETS).items():
        student.zero_grad()
        value.backward(retain_graph=True)
        norms[name] = torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]).norm().item()
    assert norms["kl"] == pytest.approx(1000 * norms["cross_entropy"], rel=1e-3)
    assert norms["hint"] == pytest.approx(0.25 * norms["cross_entropy"], rel=1e-3)


def test_interrupted_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    training = replace(SHORT, balance=True)
    whole, history = run(tiny_context(tmp_path / "whole", data=NOISY), training, LABELS, KL)
    context = tiny_context(tmp_path / "cut", data=NOISY)
    with pytest.raises(KeyboardInterrupt):
        run(context, training, LABELS, KL, on_epoch=stop_at(2))
    resumed, same_history = run(context, training, LABELS, KL)
    assert same(whole, resumed) and same_history == history
    assert history["epochs"][history["best"]]["validation"] > 0.5  # of 0.25 by chance
