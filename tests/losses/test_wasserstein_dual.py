"""The dual form: by hand with a known critic, and bounded by SciPy's exact distance."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from edgekd.losses.wasserstein_dual import WassersteinDual

LOSS = WassersteinDual(width=16)


class Apart(nn.Module):
    """g(t, s) = −|t − s|."""

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        theirs, ours = pairs.chunk(2, 1)
        return -(theirs - ours).norm(dim=1)


def test_numbers_worked_out_by_hand() -> None:
    """Two directions at a right angle: own pairs 0 apart, half of all pairs √2. Exchanged, own pairs are √2 apart."""
    corners = torch.eye(2)
    assert LOSS(3 * corners, corners, state=Apart()).item() == pytest.approx(2 - math.sqrt(2) / 2, rel=1e-6)
    assert LOSS(corners.flip(0), corners, state=Apart()).item() == pytest.approx(2 + math.sqrt(2) / 2, rel=1e-6)


def exact(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The Wasserstein distance of {(t_i, s_i)} from {(t_i, s_j)}, by linear programming over all transports."""
    own = np.concatenate([theirs, ours], 1)
    every = np.array([np.concatenate([t, s]) for t in theirs for s in ours])
    n, m = len(own), len(every)
    cost = np.linalg.norm(own[:, None] - every[None], axis=2).ravel()
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return float(linprog(cost, A_eq=np.concatenate([rows, columns]), b_eq=masses).fun)


def test_a_trained_critic_comes_near_the_distance_and_not_beyond() -> None:
    torch.manual_seed(0)
    theirs, ours = (nn.functional.normalize(torch.randn(4, 3), dim=1) for _ in range(2))
    state = LOSS.state(ours, theirs, 4).train()
    optimizer = torch.optim.Adam(state.parameters(), lr=3e-2)
    for _ in range(120):
        optimizer.zero_grad()
        LOSS(ours, theirs, state=state).backward()
        optimizer.step()
    found = 2 - LOSS(ours, theirs, state=state.eval()).item()
    distance = exact(theirs.numpy(), ours.numpy())
    assert 0.2 * distance < found < distance  # two normalised layers are far from the steepest that there is


def test_the_critic_is_no_steeper_than_one() -> None:
    torch.manual_seed(0)
    state = LOSS.state(torch.zeros(2, 5), torch.zeros(2, 5), 2).train()
    with torch.no_grad():
        for parameter in state.parameters():
            parameter.mul_(10)
        a, b = torch.randn(2, 200, 10)
        for _ in range(20):  # one step of the power iteration each
            values = state(a), state(b)
    assert ((values[0] - values[1]).abs() <= 1.001 * (a - b).norm(dim=1)).all()
