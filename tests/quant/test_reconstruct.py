"""Reconstruction: it finds a better rounding than the nearest, goes on after a kill to the same bits, and stays on its grid."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from quant.zoo import inputs, warm
from torch import nn
from torch.fx import GraphModule

from edgekd.errors import EdgekdError
from edgekd.progress import Progress
from edgekd.quant import pt2e
from edgekd.quant.adapter import weights
from edgekd.quant.grid import AFFINE
from edgekd.quant.methods import Reconstruction
from edgekd.quant.precision import Precision
from edgekd.quant.reconstruct import reconstruct
from edgekd.quant.step import PerChannelStep

X = inputs(48, 7)


def prepared(
    model: nn.Module, weights: int = 3, activations: int = 4, x: torch.Tensor = X, observer: str = "mse"
) -> GraphModule:
    graph = pt2e.prepare(model, x[:1], AFFINE, observer, False, Precision(weights, activations, 2, stored=True))
    pt2e.calibrate(graph, [x])
    graph.eval()
    return graph


@torch.no_grad()
def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean())


def run(graph: GraphModule, path: Path, use: str = "block", x: torch.Tensor = X, **options: object) -> list[dict]:
    asked = Reconstruction(use=use, **{"iterations": 40, "batch": 16, **options})
    return reconstruct(graph, x, asked, 0, Progress(quiet=True), path / "checkpoint")


def test_it_finds_the_rounding_that_brute_force_finds(tmp_path: Path) -> None:
    """Five weights on correlated inputs, in steps of 0.2: the nearest rounding moves three of them down by 0.08 each."""
    draw = torch.Generator().manual_seed(3)
    shared = torch.randn(256, 1, generator=draw)
    x = shared + 0.3 * torch.randn(256, 5, generator=draw)
    model = nn.Linear(5, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.8, 0.6, 0.28, 0.08, -0.12]]))
    graph = prepared(model.eval(), weights=3, activations=16, x=x, observer="minmax")
    (step,) = (w for w in weights(graph) if isinstance(w, PerChannelStep))
    weight = graph.get_parameter("weight").detach().clone()
    scale, zero = step.scale, step.zero_point
    base = torch.floor(weight / scale)

    def loss(candidate: torch.Tensor) -> float:
        return float(((x @ (candidate - weight).T) ** 2).mean())

    every = [
        ((base + torch.tensor([up], dtype=torch.float32) + zero).clamp(-4, 3) - zero) * scale
        for up in product((0, 1), repeat=5)
    ]
    best = min(every, key=loss)
    assert loss(best) < 0.5 * loss(step(weight))
    run(graph, tmp_path, "adaround", x=x, iterations=400, batch=64)
    assert loss(graph.get_parameter("weight").detach()) == pytest.approx(loss(best), rel=1e-3)


@pytest.mark.parametrize("use", ["adaround", "block"])
def test_the_error_falls_and_the_weights_are_on_their_grid(tmp_path: Path, use: str) -> None:
    model = warm("residual")
    graph = prepared(model)
    before = gap(graph(X), model(X))
    facts = run(graph, tmp_path, use, iterations=120)
    assert gap(graph(X), model(X)) < 0.8 * before
    assert [len(one["layers"]) for one in facts] == ([1, 2, 1, 2, 1] if use == "block" else [1] * 7)
    for node in weights(graph):
        assert isinstance(node, PerChannelStep) and node.soft is None
    for layer in (n for n in graph.graph.nodes if n.op == "call_module" and n.args[0].op == "get_attr"):
        value = graph.get_parameter(layer.args[0].target)
        assert torch.allclose(graph.get_submodule(layer.target)(value), value, atol=1e-6)
    assert all(parameter.requires_grad for name, parameter in graph.named_parameters() if "weight" in name)
    with torch.no_grad():
        assert (pt2e.convert(graph)(X) - graph(X)).abs().max() < 0.02 * model(X).std()


def test_only_block_moves_scales_and_ranges(tmp_path: Path) -> None:
    moved = {}
    for use in ("adaround", "block"):
        graph = prepared(warm("dense"))
        before = pt2e.state(graph)
        run(graph, tmp_path, use)
        moved[use] = {k.rpartition(".")[2] for k, v in pt2e.state(graph).items() if not torch.equal(v, before[k])}
    assert moved["adaround"] == {"weight"}
    assert moved["block"] == {"weight", "scale", "minimum", "maximum"}


def test_the_same_seed_gives_the_same_bits_and_a_kill_costs_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd.training import checkpoint

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = prepared(warm("residual"))
    facts = run(whole, tmp_path / "a")

    real, written = checkpoint.write, []

    def killed(path: Path, *content: object) -> None:
        real(path, *content)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", killed)
    stopped = prepared(warm("residual"))
    with pytest.raises(KeyboardInterrupt):
        run(stopped, tmp_path / "b")
    again = prepared(warm("residual"))
    assert run(again, tmp_path / "b") == facts
    assert len(written) == 2 + 3  # five blocks: two before, three after
    expected = pt2e.state(whole)
    assert all(torch.equal(value, expected[name]) for name, value in pt2e.state(again).items())
    run(prepared(warm("residual", seed=1)), tmp_path / "b")
    assert len(written) == 2 + 3 + 5  # another network's checkpoint is no checkpoint


def test_an_error_that_is_not_finite_names_its_part(tmp_path: Path) -> None:
    graph = prepared(warm("dense"))
    with pytest.raises(EdgekdError, match="reconstruction of 1: the error is") as error:
        run(graph, tmp_path, lr=1e30, step_lr=1e30)
    assert "lower lr" in error.value.hint
