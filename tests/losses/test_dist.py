"""Relations of classes and samples: by hand, against numpy's correlation, and what they ignore."""

import math

import numpy as np
import pytest
import torch

from edgekd.losses.dist import Dist


def test_numbers_worked_out_by_hand() -> None:
    """Of two classes, each sample's correlation is 1 or −1; so is each class's over two samples."""
    teacher = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    agrees, half = torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert Dist()(agrees, teacher).item() == pytest.approx(0, abs=1e-6)
    # `half` has one of two samples wrong: (2 + 0) / 2; the second sample is still the likelier one of class 0: 0
    assert Dist(inter=1.0, intra=0.0)(half, teacher).item() == pytest.approx(1, abs=1e-6)
    assert Dist(inter=0.0, intra=1.0)(half, teacher).item() == pytest.approx(0, abs=1e-6)
    assert Dist(inter=3.0, intra=1.0, temperature=2.0)(half, teacher).item() == pytest.approx(4 * 3, abs=1e-5)


def test_against_numpy() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 7, 5)) * 2
    q, p = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (student, teacher))
    inter = np.mean([1 - np.corrcoef(q[i], p[i])[0, 1] for i in range(7)])
    intra = np.mean([1 - np.corrcoef(q[:, c], p[:, c])[0, 1] for c in range(5)])
    found = Dist(inter=2.0, intra=0.5, temperature=2.0)(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.item() == pytest.approx(4 * (2 * inter + 0.5 * intra), rel=1e-9)


def test_it_lets_the_student_be_less_sure() -> None:
    """Probabilities that are halfway to even have another size and the same correlation within each sample."""
    teacher = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    student = torch.log((torch.exp(teacher) + 1 / 3) / 2)
    assert Dist()(student, teacher).item() == pytest.approx(0, abs=1e-6)
    assert not math.isclose(torch.softmax(student, 1)[0, 0].item(), 0.7, rel_tol=0.1)
