"""How wide each group stays: the channels with the best scores, in numbers that the target computes well with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

Scope = Literal["global", "per_group"]


def choose(
    scores: Mapping[str, torch.Tensor], ratio: float, scope: Scope, multiple: int | Mapping[str, int]
) -> dict[str, list[int]]:
    """{group: channels to keep, ascending} for {group: scores [channels], larger = keep}.

    "per_group" removes the share `ratio` of each group, "global" the share `ratio` of all channels together, lowest scores
    first, wherever they lie. What is left of a group is then rounded by `rounded` to a multiple of `multiple`, of each group's
    own where it is a mapping, so the share removed is near `ratio`, not equal to it. Of equal scores the earlier channel stays.

    >>> scores = {"a": torch.tensor([1.0, 4.0, 3.0, 2.0]), "b": torch.tensor([9.0, 8.0, 7.0, 0.5])}
    >>> choose(scores, 0.5, "per_group", multiple=1)
    {'a': [1, 2], 'b': [0, 1]}
    >>> choose(scores, 0.5, "global", multiple=1)
    {'a': [1], 'b': [0, 1, 2]}
    """
    if scope == "per_group":
        left = {name: len(values) * (1 - ratio) for name, values in scores.items()}
    else:
        every = torch.cat(list(scores.values()))
        stays = torch.argsort(every, descending=True, stable=True)[: len(every) - round(ratio * len(every))]
        owner = torch.arange(len(scores)).repeat_interleave(torch.tensor([len(v) for v in scores.values()]))
        counts = torch.bincount(owner[stays], minlength=len(scores)).tolist()
        left = dict(zip(scores, map(float, counts), strict=True))
    multiples = multiple if isinstance(multiple, Mapping) else dict.fromkeys(scores, multiple)
    return best(scores, {name: rounded(left[name], len(values), multiples[name]) for name, values in scores.items()})


def best(scores: Mapping[str, torch.Tensor], widths: Mapping[str, int]) -> dict[str, list[int]]:
    """{group: channels to keep, ascending}: the `widths` best of each group's scores; of equal scores the earlier stays.

    >>> best({"a": torch.tensor([1.0, 4.0, 3.0, 3.0])}, {"a": 2})
    {'a': [1, 2]}
    """
    order = {name: torch.argsort(values, descending=True, stable=True).tolist() for name, values in scores.items()}
    return {name: sorted(ranked[: widths[name]]) for name, ranked in order.items()}


def rounded(left: float, channels: int, multiple: int) -> int:
    """The width nearest to `left` among the multiples of `multiple` below `channels`, and `channels` itself: never zero.

    Halfway, the wider one. A group no wider than one multiple stays whole.

    >>> [rounded(left, 24, 8) for left in (0.0, 11.9, 12.0, 16.8, 23.0)], rounded(3.0, 6, 8), rounded(10.0, 12, 8)
    ([8, 8, 16, 16, 24], 6, 12)
    """
    widths: list[int] = [channels, *reversed(range(multiple, channels, multiple))]
    return min(widths, key=lambda width: abs(width - left))
