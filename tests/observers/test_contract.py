"""What every observer of the registry must do; a new file is tested by existing."""

from __future__ import annotations

import math

import pytest
import torch

from edgekd import registry
from edgekd.errors import EdgekdError

OBSERVERS = registry.names("observers")
ORDERLY = [name for name in OBSERVERS if name != "moving_average"]  # whose memory fades from batch to batch


def observed(name: str, *batches: torch.Tensor) -> tuple[float, float]:
    observer = registry.build("observers", name, {})
    for batch in batches:
        observer.update(batch)
    return observer.range()


@pytest.mark.parametrize("name", OBSERVERS)
def test_the_range_lies_within_what_was_seen(name: str) -> None:
    x = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0))
    low, high = observed(name, x)
    assert x.min() <= low < -1 < 1 < high <= x.max()


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-30])
def test_a_constant_is_its_own_range(name: str, value: float) -> None:
    low, high = observed(name, torch.full((2, 5), value))
    assert (low, high) == pytest.approx((value, value))


@pytest.mark.parametrize("name", ORDERLY)
def test_batches_in_any_order_give_one_range(name: str) -> None:
    draw = torch.Generator().manual_seed(1)
    batches = [torch.randn(300, generator=draw) * scale for scale in (0.01, 1.0, 30.0)]
    whole = observed(name, torch.cat(batches))
    assert observed(name, *batches) == pytest.approx(whole)
    assert observed(name, *batches[::-1]) == pytest.approx(whole)


@pytest.mark.parametrize("name", OBSERVERS)
def test_one_sided_values_keep_their_side(name: str) -> None:
    x = torch.rand(1000, generator=torch.Generator().manual_seed(2)) + 1
    assert observed(name, x)[0] >= 0
    assert observed(name, -x)[1] <= 0


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    with pytest.raises(EdgekdError, match="1 of 3 values"):
        observed(name, torch.tensor([1.0, bad, 2.0]))


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_seen_has_no_range(name: str) -> None:
    with pytest.raises(EdgekdError, match=f"{name}: no values were observed"):
        observed(name)
    with pytest.raises(EdgekdError, match="no values"):
        observed(name, torch.zeros(0))
