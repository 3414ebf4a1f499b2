"""Which few samples stand for many: greedy selection by graph cut, in bins, and by covering the space of probabilities."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize


def graph_cut_bins(features: torch.Tensor, bins: int) -> list[torch.Tensor]:
    """Every sample of features [n, f] in one of `bins` bins, each filled greedily by the graph-cut gain; indices by bin.

    Early bins hold samples that are like many others, late ones what was left: a set drawn evenly from all of them spans
    both. Bins are of equal size, the first ones larger by one where n is no multiple.
    Source: Zhou et al. 2023, "Dataset Quantization", arXiv 2308.10524 (bins by submodular gain).
    """
    left = torch.arange(len(features))
    vectors = normalize(features.double(), dim=1)
    found = []
    for number in range(bins):
        size = -(-len(left) // (bins - number))
        chosen = greedy(vectors[left], size)
        found.append(left[chosen])
        kept = torch.ones(len(left), dtype=torch.bool)
        kept[chosen] = False
        left = left[kept]
    return found


def greedy(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of `size` of the unit vectors [n, f], each the one of largest gain in the graph cut of what was chosen.

    f(S) = Σ_{v∈V} Σ_{s∈S} v·s − Σ_{s,t∈S} s·t, so the gain of x is Σ_{v∈V} v·x − 2 Σ_{s∈S} s·x − x·x: like the rest, unlike
    the chosen. Similarities are cosines, as in the code published with Zhou et al. 2023. Of equal gains the first wins.
    """
    gains = vectors @ vectors.sum(0) - (vectors**2).sum(1)
    chosen = torch.empty(size, dtype=torch.int64)
    for place in range(size):
        chosen[place] = gains.argmax()
        gains -= 2 * (vectors @ vectors[chosen[place]])
        gains[chosen[place]] = -torch.inf
    return chosen


def covering(points: torch.Tensor, size: int, first: int) -> torch.Tensor:
    """Indices of `size` of the points [n, d]: from `first` on, each the one farthest from all that are chosen (Euclidean).

    On a classifier's probabilities this is the selection of Kang et al. 2025, "PCoreSet", arXiv 2506.00910; greedy k-centre is
    Gonzalez 1985, doi 10.1016/0304-3975(85)90224-5, at most twice as far from some point as the best choice would be.
    """
    chosen = torch.empty(size, dtype=torch.int64)
    chosen[0] = first
    far = (points - points[first]).norm(dim=1)
    for place in range(1, size):
        chosen[place] = far.argmax()
        far = torch.minimum(far, (points - points[chosen[place]]).norm(dim=1))
        far[chosen[: place + 1]] = -1.0
    return chosen
