"""Which samples stand for many: the graph cut's gain by brute force, bins that hold everything, points far apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from edgekd.coverage import covering, graph_cut_bins, greedy
from edgekd.errors import UserError
from tests.sources.given import inputs


def cut(vectors: torch.Tensor, chosen: list[int]) -> float:
    """f(S) = Σ_{v∈V} Σ_{s∈S} v·s − Σ_{s,t∈S} s·t, term by term."""
    return sum(float(v @ vectors[s]) for v in vectors for s in chosen) - sum(
        float(vectors[s] @ vectors[t]) for s in chosen for t in chosen
    )


def test_each_choice_has_the_largest_gain() -> None:
    vectors = normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    chosen = greedy(vectors, 7).tolist()
    assert len(set(chosen)) == 7
    for size, pick in enumerate(chosen):
        before = chosen[:size]
        gains = {i: cut(vectors, [*before, i]) - cut(vectors, before) for i in range(12) if i not in before}
        assert gains[pick] == pytest.approx(max(gains.values()))


def test_bins_hold_every_sample_once() -> None:
    bins = graph_cut_bins(torch.randn(23, 4, generator=torch.Generator().manual_seed(1)), 4)
    assert [len(one) for one in bins] == [6, 6, 6, 5]
    assert sorted(torch.cat(bins).tolist()) == list(range(23))


def test_points_are_taken_from_far_away() -> None:
    """On a line at 0, 1, 2, 10, 4: from 0 the farthest is 10, then 4 (4 from 0), then 2 (2 from both)."""
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [4.0]])
    assert covering(points, 4, first=0).tolist() == [0, 3, 4, 2]
    assert sorted(covering(torch.zeros(3, 2), 3, first=1).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("method", ["bins", "probability", "random"])
def test_every_method_of_the_coreset(tmp_path: Path, method: str) -> None:
    found = inputs("coreset", tmp_path, options={"method": method, "pool": 100}, count=10)
    assert len({x.numpy().tobytes() for x in found}) == 10


def test_a_pool_too_small(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="20 of a pool of 5 cannot be chosen"):
        inputs("coreset", tmp_path, options={"pool": 5})
