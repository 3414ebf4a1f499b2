"""Widths: multiples of what the target likes, the best channels, nearest to the ratio."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.pruning.widths import choose, rounded

SCORES = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40).map(torch.tensor), min_size=1
)


@settings(deadline=None)
@given(
    scores=SCORES,
    ratio=st.floats(0.01, 0.99),
    scope=st.sampled_from(["global", "per_group"]),
    multiple=st.integers(1, 16),
)
def test_widths_are_multiples_or_whole_and_hold_the_best_channels(scores, ratio, scope, multiple) -> None:
    for name, kept in choose(scores, ratio, scope, multiple).items():
        total = len(scores[name])
        assert kept == sorted(set(kept))
        assert len(kept) == total or (len(kept) % multiple == 0 and 0 < len(kept) < total)
        gone = [c for c in range(total) if c not in kept]
        assert not gone or scores[name][kept].min() >= scores[name][gone].max()


@settings(deadline=None)
@given(scores=SCORES, ratio=st.floats(0.01, 0.99))
def test_a_global_ratio_removes_that_share_where_nothing_is_rounded(scores, ratio) -> None:
    total = sum(map(len, scores.values()))
    kept = choose(scores, ratio, "global", 1)
    emptied = sum(len(k) == 1 for k in kept.values())  # a group keeps one channel at least
    assert 0 <= sum(map(len, kept.values())) - (total - round(ratio * total)) <= emptied


@settings(deadline=None)
@given(left=st.floats(0, 64), channels=st.integers(1, 64), multiple=st.integers(1, 16))
def test_no_allowed_width_is_nearer(left: float, channels: int, multiple: int) -> None:
    width = rounded(left, channels, multiple)
    allowed = [w for w in range(1, channels + 1) if w % multiple == 0 or w == channels]
    assert width in allowed
    assert abs(width - left) == min(abs(w - left) for w in allowed)
