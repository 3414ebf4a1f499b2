"""Accuracy control: the fewest layers left in float that bring the metric back within what may be lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["fewest"]

Within = Callable[[frozenset[str]], bool]
"""Whether the metric is within the allowed drop with these layers in float."""


def fewest(order: Sequence[str], within: Within) -> list[str]:
    """The layers to leave in float, in `order`, the most sensitive first; none of them can be put back.

    Nothing is asked twice. First how many must go in that order, by halving, then one by one, the least sensitive first,
    whether it must. Where two are left, every single layer is tried in their place. With all of `order` in float the network
    is the float one, which is within any drop, so there is always an answer.
    """
    known: dict[frozenset[str], bool] = {frozenset(order): True}

    def asked(layers: Sequence[str]) -> bool:
        key = frozenset(layers)
        if key not in known:
            known[key] = within(key)
        return known[key]

    if asked([]):
        return []
    low, high = 0, len(order)  # too few, and enough: a metric need not fall with every layer, so both were seen
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if asked(order[:middle]) else (middle, high)
    kept = list(order[:high])
    for layer in reversed(order[:high]):
        without = [one for one in kept if one != layer]
        if without and asked(without):
            kept = without
    if len(kept) == 2:
        kept = next(([one] for one in order if asked([one])), kept)
    return kept
