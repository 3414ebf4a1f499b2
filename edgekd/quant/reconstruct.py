"""Reconstruction: part by part, learn the rounding (and the steps) that keep the float network's outputs.

The float network is the teacher: each part learns to give, from what the quantized network before it gives, what the float
one gives. No labels, no other data than the calibration samples. A run that was killed goes on at the block it was at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.fx import GraphModule

from edgekd.errors import EdgekdError
from edgekd.quant.adapter import ActivationGrid, activations, in_float
from edgekd.quant.blocks import Part, blocks, extract, layers, weight_step
from edgekd.quant.pt2e import restore, state
from edgekd.quant.quantizer import layer_name
from edgekd.quant.rounding import SoftRounding, annealed, regularizer
from edgekd.quant.step import PerChannelStep
from edgekd.training import checkpoint
from edgekd.training.train import derive

if TYPE_CHECKING:
    from edgekd.progress import Progress, Task
    from edgekd.quant.methods import Reconstruction

__all__ = ["reconstruct"]

CHUNK = 256
"""Samples that a part sees at once outside training."""


def reconstruct(
    prepared: GraphModule,
    inputs: torch.Tensor,
    options: Reconstruction,
    seed: int,
    progress: Progress,
    path: Path,
) -> list[dict[str, Any]]:
    """Reconstruct a prepared and calibrated graph in place from inputs [n, ...]; `path` is its checkpoint.

    Weights end on their grids, so that rounding them again changes nothing; with "block", scales and ranges move too. Returns
    for each part {"part", "layers", "before", "after"}: the error ‖ẑ − z‖² / ‖z‖² of its output, given what the quantized
    network before it gives, with rounding to nearest and as learned. Deterministic by seed.
    """
    found = blocks(prepared)
    block_wise = options.use == "block"
    parts = [[block] if block_wise else layers(prepared, block) for block in found]
    facts: list[dict[str, Any]] = []
    origin = _origin(prepared, inputs, options, seed)
    saved = checkpoint.read(path)
    done = 0
    trainable = [p for p in prepared.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        x_float = x = _nhwc(inputs)
        if saved is not None and saved[1]["origin"] == origin:
            done, facts = saved[1]["done"], saved[1]["facts"]
            for block in found[:done]:
                x_float = _float(_whole(prepared, block), x_float)[0]
            restore(prepared, saved[0])
            for block in found[:done]:
                x = _run(_whole(prepared, block), x)[0]
        total = sum(len(group) for group in parts) * options.iterations
        with progress.task(f"reconstruct by {options.use}", total=total) as task:
            task.advance(sum(len(group) for group in parts[:done]) * options.iterations)
            for index in range(done, len(found)):
                block, group = found[index], parts[index]
                targets = _float(extract(prepared, block.start, [block.end, *(part.end for part in group)]), x_float)
                starts = _float(extract(prepared, block.start, [part.start for part in group]), x_float)
                for part, target, start in zip(group, targets[1:], starts, strict=True):
                    held = _run(extract(prepared, block.start, [part.start]), x)[0]
                    facts.append(_part(prepared, part, held, start, target, options, seed, task))
                x_float, x = targets[0], _run(_whole(prepared, block), x)[0]
                checkpoint.write(path, state(prepared), {"origin": origin, "done": index + 1, "facts": facts})
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return facts


def _part(
    prepared: GraphModule,
    part: Part,
    x: torch.Tensor,
    x_float: torch.Tensor,
    target: torch.Tensor,
    options: Reconstruction,
    seed: int,
    task: Task,
) -> dict[str, Any]:
    """Learn one part: x [n, ...] is what the quantized network gives it, x_float what the float one does."""
    module = extract(prepared, part.start, [part.end])
    before = _error(_run(module, x)[0], target)
    block_wise = options.use == "block"
    soft: list[tuple[PerChannelStep, nn.Parameter, SoftRounding]] = []
    for layer in part.weighted:
        step, held = weight_step(prepared, layer), layer.args[1].args[0]  # type: ignore[union-attr]
        assert isinstance(step, PerChannelStep)
        weight = prepared.get_parameter(str(held.target))  # type: ignore[union-attr]
        soft.append((step, weight, SoftRounding(weight, step, learn_step=block_wise)))
    draw = torch.Generator().manual_seed(derive(seed, "reconstruct", part.name))
    masks = _Masks(options.drop if block_wise else 0.0, x[: options.batch].numel(), draw)
    grids = [grid for grid in activations(module) if grid.grid is not None] if block_wise else []
    try:
        for step, _, rounding in soft:
            step.soft = rounding
        for grid in grids:
            grid.learn()
            grid.mask = masks
        _learn(module, part, [r for *_, r in soft], grids, (x, x_float, target), options, masks, task)
        with torch.no_grad():
            for step, weight, rounding in soft:
                weight.copy_(rounding.hard())
                step.scale = rounding.scale().flatten()
    finally:
        for step, *_ in soft:
            step.soft = None
        for grid in grids:
            grid.settle_step()
    return {
        "part": part.name,
        "layers": [layer_name(layer) for layer in part.weighted],
        "before": before,
        "after": _error(_run(module, x)[0], target),
    }


def _learn(
    module: GraphModule,
    part: Part,
    soft: Sequence[SoftRounding],
    grids: Sequence[ActivationGrid],
    data: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    options: Reconstruction,
    masks: _Masks,
    task: Task,
) -> None:
    """Minimise Σ_channels (ẑ − z)², its mean over all else, plus the regularizer of the rounding.

    Source: Nagel et al. 2020, arXiv 2004.10568, equation 25; Li et al. 2021, arXiv 2102.05426, equation 10, without its
    Fisher weights, as the later papers have it.
    """
    x, x_float, target = data
    learned = [*(rounding.log_step for rounding in soft), *(grid.log_step for grid in grids)]
    steps = [step for step in learned if step is not None]
    groups = [{"params": [s.v for s in soft], "lr": options.lr}, {"params": steps, "lr": options.step_lr}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    size, order = min(options.batch, len(x)), torch.empty(0, dtype=torch.long)
    for iteration in range(options.iterations):
        if len(order) < size:
            order = torch.randperm(len(x), generator=masks.draw)
        batch, order = order[:size], order[size:]
        seen = x[batch]
        if (mask := masks(seen)) is not None:
            seen = torch.lerp(x_float[batch], seen, mask)
        if steps:
            share = 0.5 * (1 + math.cos(math.pi * iteration / options.iterations))
            optimizer.param_groups[1]["lr"] = options.step_lr * share
        error = (module(seen)[0] - target[batch]).square().sum(1).mean()
        loss = error
        if iteration >= options.warmup * options.iterations:
            beta = annealed(iteration, options.iterations, options.warmup)
            loss = error + options.regularization * sum(regularizer(s.rounding(), beta) for s in soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration % 50 == 49 or iteration + 1 == options.iterations:
            value = float(error.detach())
            if not math.isfinite(value):
                raise EdgekdError(f"reconstruction of {part.name}: the error is {value}", hint="a lower lr or step_lr")
            task.advance(iteration % 50 + 1, f"{part.name}, error {value:.4g}")


class _Masks:
    """Masks that are 0 for a share of their values and 1 for the rest: each a window, at random, of one long random row.

    Drawing every mask anew would take as long as the convolutions.
    """

    def __init__(self, share: float, largest: int, draw: torch.Generator) -> None:
        """For tensors of up to `largest` values. `share` 0 makes no masks."""
        self.share, self.draw = share, draw
        self.row = (torch.rand(4 * largest, generator=draw) >= share).float() if share else torch.empty(0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor | None:
        """A mask of x's shape, laid out as x is; x is dense."""
        if not self.share:
            return None
        if x.numel() >= len(self.row):
            self.row = (torch.rand(4 * x.numel(), generator=self.draw) >= self.share).float()
        offset = int(torch.randint(len(self.row) - x.numel(), (), generator=self.draw))
        return self.row.as_strided(x.shape, x.stride(), offset)


def _nhwc(x: torch.Tensor) -> torch.Tensor:
    """Images with the channels last in memory, which convolutions on a CPU like best."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _whole(prepared: GraphModule, block: Part) -> GraphModule:
    return extract(prepared, block.start, [block.end])


@torch.no_grad()
def _run(module: GraphModule, x: torch.Tensor) -> list[torch.Tensor]:
    """What a part gives for x [n, ...], a chunk at a time: a tensor [n, ...] for each of its ends."""
    chunks = [module(chunk) for chunk in x.split(CHUNK)]
    return [_nhwc(torch.cat(values)) for values in zip(*chunks, strict=True)]


def _float(module: GraphModule, x: torch.Tensor) -> list[torch.Tensor]:
    """The same without any rounding."""
    with in_float(module):
        return _run(module, x)


def _error(found: torch.Tensor, target: torch.Tensor) -> float:
    """‖found − target‖² / ‖target‖²."""
    return float((found - target).square().sum() / target.square().sum().clamp_min(1e-30))


def _origin(prepared: GraphModule, inputs: torch.Tensor, options: Reconstruction, seed: int) -> str:
    """What this run began from: a checkpoint that began from anything else is of another run."""
    facts = {"options": repr(options), "seed": seed}
    return hashlib.sha256(checkpoint.encode({**state(prepared), "inputs": inputs}, facts)).hexdigest()
