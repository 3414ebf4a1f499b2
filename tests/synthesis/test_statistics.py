"""Batch-norm statistics: moments and distances worked out by hand, and against torch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_student
from torch import nn

from edgekd.errors import UserError
from edgekd.synthesis.statistics import (
    Moments,
    batch_norms,
    distance,
    of_channels,
    remembered,
    require,
    together,
    watched,
)
from edgekd.target import Calibration


def test_the_distance_of_a_two_channel_toy() -> None:
    """Channel 0: values 1, 3: mean 2, deviation 1. Channel 1: values 0, 4: mean 2, deviation 2.

    Remembered: means 1, 0, deviations 1, 4. (1² + 2²)/2 + (0² + 2²)/2 = 2.5 + 2 = 4.5.
    """
    x = torch.tensor([[[1.0], [0.0]], [[3.0], [4.0]]])
    found = of_channels(x)
    assert (found.count, found.mean.tolist(), found.variance.tolist()) == (2, [2.0, 2.0], [1.0, 4.0])
    gap = distance(found, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 4.0]))
    assert float(gap) == pytest.approx(4.5, abs=1e-5)


def test_moments_of_two_batches_are_those_of_all() -> None:
    """1, 3 (mean 2, variance 1) and 8 (variance 0): mean 4, variance (9 + 1 + 16)/3."""
    parts = [Moments(2, torch.tensor([2.0]), torch.tensor([1.0])), Moments(1, torch.tensor([8.0]), torch.tensor([0.0]))]
    both = together(parts)
    assert (both.count, float(both.mean)) == (3, pytest.approx(4.0))
    assert float(both.variance) == pytest.approx(26 / 3)
    x = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 2
    whole, halves = of_channels(x), together([of_channels(x[:2]), of_channels(x[2:])])
    assert torch.allclose(whole.mean, halves.mean, atol=1e-5) and torch.allclose(
        whole.variance, halves.variance, rtol=1e-5
    )


def test_a_watched_network_computes_what_it_does_unwatched() -> None:
    """Outputs, moments, and the gradient of both, against hooks and torch's own batch norm."""
    network = tiny_student(trained=True).eval().requires_grad_(False)
    plain = copy.deepcopy(network)
    x = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with watched(network) as taken:
        output = network(x)
        ran = taken()
        assert taken() == []
    loss = output.square().sum() + sum(distance(m, *remembered(module)) for module, m in ran)
    (gradient,) = torch.autograd.grad(loss, x)

    seen: list[torch.Tensor] = []
    hooks = [m.register_forward_pre_hook(lambda _m, a: seen.append(a[0])) for m in batch_norms(plain)]
    expected = plain(x)
    for hook in hooks:
        hook.remove()
    total = expected.square().sum()
    for module, one in zip(batch_norms(plain), seen, strict=True):
        deviation = torch.sqrt(one.var((0, 2, 3), correction=0) + 1e-6)
        total = total + ((one.mean((0, 2, 3)) - module.running_mean) ** 2).mean()
        total = total + ((deviation - torch.sqrt(module.running_var + module.eps)) ** 2).mean()
    assert torch.allclose(output, expected, atol=1e-5)
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(total, x)[0], atol=1e-5)
    assert torch.equal(network(x), plain(x)), "unwatched again"


def test_a_channel_of_one_value_has_a_variance_of_zero() -> None:
    """As behind units that never fire, of which trained networks have some."""
    net = nn.Sequential(nn.BatchNorm2d(2)).eval()
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 3.0
    x.requires_grad_()
    with watched(net) as taken:
        net(x)
        ((_, found),) = taken()
    assert found.variance[1] == 0 and float(found.variance[0].detach()) == pytest.approx(
        float(x[:, 0].detach().var(correction=0)), rel=1e-5
    )
    gap = distance(found, torch.zeros(2), torch.ones(2))
    gap.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


def test_vectors_have_moments_too() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    with watched(network) as taken:
        network(torch.eye(3))
        ((module, found),) = taken()
    assert module is network[1] and found.count == 3


def test_without_batch_norm_the_way_out_is_named() -> None:
    recipe = Calibration(name="mine", source="genie", count=4)
    require(tiny_student(), recipe)
    with pytest.raises(
        UserError, match="the student has no batch norm: nothing in it says what its inputs look like"
    ) as error:
        require(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False)), recipe)
    assert 'source = "teacher"' in error.value.hint and 'source = "gaussian"' in error.value.hint
