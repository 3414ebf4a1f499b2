"""Contrast at several scales: by hand, against plain loops, and whom it refuses."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.multi_scale_contrast import MultiScaleContrast


def test_numbers_worked_out_by_hand() -> None:
    """Two samples that each have one channel of two: own score 1, the other's 0, so log(1 + 1/e) for samples and for channels."""
    maps = torch.eye(2)[..., None, None]
    assert MultiScaleContrast(temperature=1.0)(maps, maps).item() == pytest.approx(
        2 * math.log(1 + 1 / math.e), rel=1e-6
    )
    assert MultiScaleContrast(temperature=1.0)(maps.flip(0), maps).item() == pytest.approx(
        2 * math.log(1 + math.e), rel=1e-6
    )


def contrast(ours: np.ndarray, theirs: np.ndarray, temperature: float) -> float:
    """InfoNCE of rows [n, values], one by one."""
    found = 0.0
    for i, a in enumerate(ours):
        scores = [math.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature) for b in theirs]
        found -= math.log(scores[i] / sum(scores)) / len(ours)
    return found


def test_against_the_formula_in_loops() -> None:
    """4 × 4 maps at two scales: the whole, and 3 × 3 windows of 2 × 2."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 3, 5, 4, 4))
    expected = 0.0
    for size, places in ((4, [0]), (2, [0, 1, 2])):
        a, b = (
            np.stack([x[:, :, i : i + size, j : j + size].mean((2, 3)) for i in places for j in places])
            for x in (student, teacher)
        )
        samples = np.mean([contrast(s, t, 0.2) for s, t in zip(a, b, strict=True)])
        channels = contrast(*(x.transpose(2, 1, 0).reshape(5, -1) for x in (a, b)), 0.2)
        expected += (samples + channels) / 2
    loss = MultiScaleContrast(scales=2, temperature=0.2)
    assert loss(torch.from_numpy(student), torch.from_numpy(teacher)).item() == pytest.approx(expected, rel=1e-9)


def test_only_other_widths_are_projected_and_vectors_are_refused() -> None:
    loss, maps = MultiScaleContrast(student="block", teacher="layer"), torch.zeros(2, 3, 4, 4)
    assert isinstance(loss.projector(maps, torch.zeros(2, 3, 8, 8)), nn.Identity)
    assert loss.projector(maps, torch.zeros(2, 7, 8, 8))(maps).shape == (2, 7, 4, 4)
    with pytest.raises(UserError, match=r'the teacher\'s "layer" gives \[2, 3\]') as caught:
        loss.projector(maps, torch.zeros(2, 3))
    assert "before the pooling" in caught.value.hint
