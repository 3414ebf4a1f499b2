"""Blockwise local distillation: its loss by hand, what it reaches against the optimum, and what it leaves alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from blocks.networks import encoder
from tiny import tiny_data, tiny_student
from torch import nn

from edgekd.blocks.alternatives import Alternative, alternatives
from edgekd.blocks.calls import record
from edgekd.blocks.find import find
from edgekd.blocks.local import Steps, distilled, divergence, error, of_site
from edgekd.errors import EdgekdError
from edgekd.progress import Progress

STEPS = Steps(epochs=2, batch=32, lr=1e-2)


def test_the_loss_by_hand() -> None:
    """Target (3, 4), found (3, 1): (0 + 9) / (9 + 16). Zeros cost 1 whatever the scale."""
    target, found = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 1.0]])
    assert error(found, target).item() == pytest.approx(9 / 25)
    assert error(1000 * found, 1000 * target).item() == pytest.approx(9 / 25)
    assert error(torch.zeros(1, 2), target).item() == 1.0


def test_divergence_by_hand() -> None:
    """Parent (3/4, 1/4), ours even: 3/4 log 3/2 + 1/4 log 1/2."""
    parent = torch.tensor([[np.log(3.0), 0.0]], dtype=torch.float32)
    ours = nn.Linear(1, 2)
    nn.init.zeros_(ours.weight), nn.init.zeros_(ours.bias)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert divergence(parent, ours, torch.zeros(1, 1)) == pytest.approx(expected, rel=1e-5)


def trained(
    network: nn.Module, name: str, alternative: str, steps: Steps = STEPS
) -> tuple[nn.Module, dict[str, float], Alternative]:
    inputs, held = tiny_data().train[0][:128], tiny_data().validation[0]
    block = next(block for block in find(network, inputs[:8]) if block.name == name)
    of = alternatives(network, block, record(network, block.host, inputs[:8]), inputs[:1], 1)
    one = next(one for one in of if one.name == alternative)
    made = copy.deepcopy(network)
    calls, seen = record(network, block.host, inputs), record(network, block.host, held)
    with Progress(quiet=True).task("blocks") as task:
        facts = distilled(made, block, one, calls, seen, steps, 0, task)
    assert set(of_site(made.state_dict(), block)) <= set(made.state_dict())
    return made, facts, one


def test_a_linear_layer_comes_near_the_least_squares_optimum() -> None:
    """The optimum by numpy, of the same inputs and outputs, on what both were not fitted to."""
    network = encoder()
    _, facts, _ = trained(network, "layers.0.mlp", "linear", Steps(epochs=30, batch=16, lr=2e-2))
    both = [record(network, "layers.0.mlp", x) for x in (tiny_data().train[0][:128], tiny_data().validation[0])]
    (x, y), (u, v) = [(r.x.flatten(0, 1).numpy(), r.output.flatten(0, 1).numpy()) for r in both]
    ones = np.ones((len(x), 1), np.float32)
    best = np.linalg.lstsq(np.hstack([x, ones]), y, rcond=None)[0]
    left = ((np.hstack([u, np.ones((len(u), 1))]) @ best - v) ** 2).sum() / (v**2).sum()
    assert 0.98 * left < facts["error"] < 1.15 * left
    assert facts["error"] < 0.2 * facts["before"]


def test_only_the_block_learns_and_twice_the_same() -> None:
    network = tiny_student(trained=True).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made, facts, _ = trained(network, "block", "separable")
    again, same, _ = trained(network, "block", "separable")
    assert facts == same and facts["error"] < facts["before"]
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    assert all(
        torch.equal(value, made.state_dict()[name]) for name, value in before.items() if not name.startswith("block.")
    )
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items()), (
        "the parent is not touched"
    )


def test_fewer_heads_begin_with_those_that_are_kept() -> None:
    network = encoder()
    made, facts, one = trained(network, "layers.0.attention", "1/2 of the heads", Steps(epochs=1, batch=64, lr=1e-9))
    query = made.get_submodule("layers.0.attention").get_parameter("body.query.weight")
    assert torch.allclose(query, one.start["layers.0.attention.body.query.weight"], atol=1e-6)
    assert facts["before"] == pytest.approx(facts["error"], rel=1e-4) and 0 < facts["error"] < 1


def test_an_error_that_is_not_finite_is_said() -> None:
    with pytest.raises(EdgekdError, match=r"puzzle: block: separable: the error is (nan|inf)") as caught:
        trained(tiny_student().eval(), "block", "separable", Steps(epochs=3, batch=8, lr=1e30))
    assert caught.value.hint == "a lower lr"
