"""Learning from oneself: by hand, what is remembered of whom, and that no teacher is asked."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from edgekd.losses.self_progressive import SelfProgressive
from edgekd.stage import taught, uses

LOSS = SelfProgressive(alpha=0.8)
EVEN, THREE = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])  # [1/2, 1/2] and [1/4, 3/4]
LABEL = torch.tensor([0])


def test_numbers_worked_out_by_hand() -> None:
    state = LOSS.state(EVEN, LABEL, 3).train()
    sample = {"samples": torch.tensor([2]), "state": state}
    # not seen yet: the label alone
    assert LOSS(THREE, LABEL, progress=0.5, **sample).item() == pytest.approx(-math.log(0.25), rel=1e-6)
    assert state.answers[2].tolist() == pytest.approx([0.25, 0.75])
    assert not state.answers[:2].any()
    # α = 0.8 · 0.5: target 0.6 · [1, 0] + 0.4 · [1/4, 3/4] = [0.7, 0.3]
    state.eval()
    assert LOSS(EVEN, LABEL, progress=0.5, **sample).item() == pytest.approx(math.log(2), rel=1e-6)
    found = LOSS(THREE, LABEL, progress=0.5, **sample).item()
    assert found == pytest.approx(-(0.7 * math.log(0.25) + 0.3 * math.log(0.75)), rel=1e-6)
    assert state.answers[2].tolist() == pytest.approx([0.25, 0.75])  # only training changes it


def test_at_the_beginning_it_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    state = LOSS.state(logits, targets, 4).train()
    for _ in range(2):
        found = LOSS(logits, targets, progress=0.0, samples=torch.arange(4), state=state)
        torch.testing.assert_close(found, cross_entropy(logits, targets))


def test_it_needs_no_teacher() -> None:
    assert not taught(uses([{"use": "self_progressive"}, {"use": "cross_entropy"}], "losses"))
    assert taught(uses([{"use": "self_progressive"}, {"use": "dkd"}], "losses"))
