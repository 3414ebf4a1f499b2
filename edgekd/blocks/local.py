"""Blockwise local distillation: each alternative learns, alone, to give what its block gives for what the block is given.

No alternative waits for another, and none sees the rest of the network: it is trained on the parent's inputs and outputs of the
block. What it costs the whole network is then seen by putting it alone in its block's place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.blocks.calls import CHUNK, Record, one_by_one
from edgekd.errors import EdgekdError
from edgekd.student import replay
from edgekd.training.schedule import rate
from edgekd.training.train import batches, derive, logits_of

if TYPE_CHECKING:
    from edgekd.blocks.alternatives import Alternative
    from edgekd.blocks.find import Block
    from edgekd.progress import Task

WARMUP = 0.05  # share of the steps


@dataclass(frozen=True)
class Steps:
    """How an alternative is trained: Adam, `batch` samples a step, the learning rate up to `lr`."""

    epochs: int
    batch: int
    lr: float

    def count(self, samples: int) -> int:
        """Steps in all."""
        return self.epochs * sum(1 for _ in batches(samples, self.batch, 0))


def error(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """MSE(target, found) / MSE(target, 0) = Σ (found − target)² / Σ target²: 1 for zeros, whatever the block's scale.

    Source: Bercovich et al. 2024, arXiv 2411.19146, on blockwise local distillation: L(o_p, o_c) = MSE(o_p, o_c) / MSE(o_p, 0).
    """
    return (found - target).square().sum() / target.square().sum().clamp_min(1e-30)


def of_site(state: dict[str, torch.Tensor], block: Block) -> dict[str, torch.Tensor]:
    """The tensors of the modules that stand for the block, by their names in the network."""
    return {name: value for name, value in state.items() if any(name.startswith(f"{one}.") for one in block.site)}


def distilled(
    network: nn.Module, block: Block, one: Alternative, calls: Record, seen: Record, steps: Steps, seed: int, task: Task
) -> dict[str, Any]:
    """Put an alternative into `network`, a copy of the parent in eval mode, in place, and train it.

    `calls` and `seen`: of the block's host in the parent, on the samples to train on and on those of the validation split.
    Returns {"before", "error"}: its error on the latter, untrained and trained. Deterministic by seed. Raises EdgekdError for an
    error that is not finite.
    """
    label = f"{block.name}: {one.name}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "block", label))
        replay(network, one.edits)
        network.eval()
        network.load_state_dict({**network.state_dict(), **one.start})
        host = network.get_submodule(block.host)
        site = [network.get_submodule(name) for name in block.site]
        parameters = [p for module in site for p in module.parameters()]
        before = _held(host, seen)
        if parameters:
            _train(network, host, site, parameters, calls, steps, derive(seed, "block order", label), task, label)
            network.eval()
        after = _held(host, seen)
    if not math.isfinite(after):
        raise EdgekdError(f"puzzle: {label}: the error is {after}", hint="a lower lr")
    return {"before": before, "error": after}


def divergence(parent: torch.Tensor, network: nn.Module, inputs: torch.Tensor) -> float:
    """Mean KL(parent ‖ network) in nats over inputs [n, ...]; parent: its logits [n, classes]."""
    ours = log_softmax(logits_of(network, inputs), 1)
    return max(float(kl_div(ours, log_softmax(parent, 1), reduction="batchmean", log_target=True)), 0.0)


def _train(
    network: nn.Module,
    host: nn.Module,
    site: Sequence[nn.Module],
    parameters: list[nn.Parameter],
    calls: Record,
    steps: Steps,
    seed: int,
    task: Task,
    label: str,
) -> None:
    """Only the site learns; only its batch norms look at the batch. Dropout is off: the block is to be matched as it computes."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    for norm in (m for module in site for m in module.modules() if isinstance(m, _BatchNorm)):
        norm.train()
    optimizer = torch.optim.Adam(parameters, lr=steps.lr)
    total = steps.count(len(calls.output))
    for step, rows in enumerate(_rows(len(calls.output), steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, total, round(WARMUP * total), steps.lr)
        optimizer.zero_grad()
        with one_by_one():
            loss = error(calls.call(host, rows), calls.output[rows])
        loss.backward()
        optimizer.step()
        task.advance(1, f"{label}, error {float(loss.detach()):.3g}" if step % 10 == 0 else None)
    for parameter in network.parameters():
        parameter.requires_grad_(True)


def _rows(count: int, steps: Steps, seed: int) -> Iterator[torch.Tensor]:
    for epoch in range(steps.epochs):
        yield from batches(count, steps.batch, derive(seed, epoch))


@torch.no_grad()
def _held(host: nn.Module, seen: Record) -> float:
    """The error over all samples of a record."""
    with one_by_one():
        parts = [seen.call(host, rows) for rows in torch.arange(len(seen.output)).split(CHUNK)]
    return float(error(torch.cat(parts), seen.output))
