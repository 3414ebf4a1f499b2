"""The loop that makes images: canvases, what is shown of them, and the losses that shape them. Finished batches survive a kill."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from edgekd.errors import EdgekdError
from edgekd.progress import Progress, Task
from edgekd.synthesis.canvas import Canvas
from edgekd.synthesis.guidance import Guidance
from edgekd.synthesis.statistics import Moments, distance, of_channels, remembered, together, watched
from edgekd.synthesis.swing import swinging
from edgekd.synthesis.views import Views
from edgekd.training import checkpoint
from edgekd.training.train import derive, fastest_layout


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How a set is made from `network`, which is frozen. `begin(shape, seed)` makes the canvas of one batch.

    `statistics`: weight of the batch-norm statistics; `inputs`: weight of the images' own mean 0 and deviation 1 a channel,
    the zeroth layer of Cai et al. 2020, arXiv 2001.00281, equation 3. `joint`: the moments are those of all batches together,
    of which each step moves one (Dikstein et al. 2024, arXiv 2410.22110); else each batch is made by itself.
    """

    network: nn.Module
    begin: Callable[[Sequence[int], int], Canvas]
    steps: int
    batch: int
    seed: int
    views: Views = field(default_factory=Views)
    statistics: float = 1.0
    inputs: float = 1.0
    swing: bool = False
    joint: bool = False
    guidance: Guidance | None = None

    def make(self, count: int, shape: Sequence[int], progress: Progress, work: Path, label: str) -> torch.Tensor:
        """Inputs [count, *shape]. Raises EdgekdError where the loss is not finite."""
        self.network.eval().requires_grad_(False)
        fastest_layout(self.network, torch.zeros(2, *shape))
        batches = -(-count // self.batch)
        parts = [slice(i * count // batches, (i + 1) * count // batches) for i in range(batches)]  # as even as can be
        whole = [*shape[:1], *(side + 2 * self.views.shift for side in shape[1:])]
        with progress.task(label, total=self.steps * len(parts)) as task:
            if self.joint:
                return torch.cat(self._together(parts, whole, task))
            return torch.cat([self._alone(i, part, whole, work, task) for i, part in enumerate(parts)])

    def _alone(self, index: int, part: slice, shape: Sequence[int], work: Path, task: Task) -> torch.Tensor:
        """One batch, taken from `work` where a run that was killed had finished it."""
        path = work / f"batch-{index}.checkpoint"
        if (kept := checkpoint.read(path)) is not None:
            task.advance(self.steps)
            return kept[0]["images"]
        (images,) = self._together([part], shape, task, first=index)
        checkpoint.write(path, {"images": images}, {})
        return images

    def _together(self, parts: Sequence[slice], shape: Sequence[int], task: Task, first: int = 0) -> list[torch.Tensor]:
        """The batches `parts`, of which the first is number `first` of the set, a step of each in turn."""
        canvases = [
            self.begin((part.stop - part.start, *shape), derive(self.seed, "canvas", index))
            for index, part in enumerate(parts, first)
        ]
        optimizers = [torch.optim.Adam(canvas.groups()) for canvas in canvases]
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        generator = torch.Generator().manual_seed(derive(self.seed, "views", first))
        known: list[list[Moments]] = [[] for _ in parts]
        if len(parts) > 1:  # so that each batch knows the others' moments
            for index, canvas in enumerate(canvases):
                self._loss(canvas, parts[index], known, index, 0.0, generator)
        for step in range(self.steps):
            done = step / self.steps
            for index, (canvas, optimizer) in enumerate(zip(canvases, optimizers, strict=True)):
                for group, rate in zip(optimizer.param_groups, rates[index], strict=True):
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))
                optimizer.zero_grad()
                loss = self._loss(canvas, parts[index], known, index, done, generator)
                loss.backward()
                optimizer.step()
                canvas.settle()
                value = float(loss.detach())
                if not math.isfinite(value):
                    message = f"{task.label}: the loss is {value} at step {step + 1} of {self.steps}"
                    raise EdgekdError(message, hint="set a lower learning rate in the calibration recipe's [options]")
                task.advance(1, f"loss {value:.3f}")
        with torch.no_grad():
            return [self.views.final(canvas.images()).detach().contiguous().clone() for canvas in canvases]

    def _loss(
        self,
        canvas: Canvas,
        part: slice,
        known: list[list[Moments]],
        index: int,
        done: float,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """The loss of one batch among the others, whose moments stand in `known`; its own are left there."""
        images = self.views.of(canvas.images(), done, generator)
        shown = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
        swung = swinging(self.network, generator) if self.swing else nullcontext()
        looking = self.guidance.watching(self.network) if self.guidance else nullcontext()
        with watched(self.network) as taken, swung, looking:
            logits = self.network(shown)
            guided = self.guidance.loss(shown, logits, part) if self.guidance else torch.zeros(())
            ran = taken()
        mine = [of_channels(images), *(moments for _, moments in ran)]
        others = [moments for i, moments in enumerate(known) if i != index and moments]
        known[index] = [moments.detached() for moments in mine]
        both = [together([one, *(other[i] for other in others)]) for i, one in enumerate(mine)]
        channels = images.shape[1]
        loss = guided + self.inputs * distance(both[0], torch.zeros(channels), torch.ones(channels))
        for (module, _), moments in zip(ran, both[1:], strict=True):
            loss = loss + self.statistics * distance(moments, *remembered(module))
        return loss
