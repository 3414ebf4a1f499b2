"""What else an image in the making should do, besides matching statistics: belong to a class, spread the outputs, be looked
at in the same place by student and teacher.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, softmax

from edgekd.training.features import same_size


class Guidance(ABC):
    """A further loss on the network's outputs for the images."""

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Wraps each run of the network and the call of `loss` that follows it."""
        yield

    @abstractmethod
    def loss(self, shown: torch.Tensor, logits: torch.Tensor, part: slice) -> torch.Tensor:
        """`shown` [n, ...]: the images as the network saw them; `part`: which of the set they are. A scalar with gradients."""


def classes_for(count: int, classes: int, seed: int) -> torch.Tensor:
    """A wished class for each image, as even as can be, in random order: [count] int64."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % classes


def of_class(
    logits: torch.Tensor, targets: torch.Tensor, easy: float = 1.0, soft: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy with the wished class for images that are easy, with the soft label for those that are hard; mean.

    An image is hard where 1 − p(wished class) ≥ `easy`, p from the logits [n, classes]: its class is not to be trusted.
    `soft` [n, classes]: the teacher's logits; without them hard images count nothing. `easy` 1 makes all of them easy.
    Source: Kim et al. 2025, "SynQ", ICLR 2025 (soft labels for hard samples), there for fine-tuning.
    """
    each = cross_entropy(logits, targets, reduction="none")
    if easy >= 1:
        return each.mean()
    hard = 1 - softmax(logits.detach(), 1).gather(1, targets.unsqueeze(1)).squeeze(1) >= easy
    if soft is None:
        return torch.where(hard, 0.0, each).mean()
    return torch.where(hard, kl_div(log_softmax(logits, 1), softmax(soft, 1), reduction="none").sum(1), each).mean()


def stretch(logits: torch.Tensor, features: torch.Tensor | None, weight: torch.Tensor | None) -> torch.Tensor:
    """Distribution stretching: 1 / (max − min) of each output row [classes], mean; small where the outputs span much.

    Nothing remembers statistics after the last batch norm, so synthetic outputs crowd together. Where the last linear layer is
    known (its input `features` [n, f], its `weight` [classes, f]), the ends are also drawn to half of what they could be at
    most, | |y_k| − ½‖x‖‖w_k| | for the largest and the smallest output k, so that they do not grow without end.
    Source: Dikstein et al. 2024, "DGH", arXiv 2410.22110 (output distribution stretching), as in the code published with it.
    """
    high, at_high = logits.max(1)
    low, at_low = logits.min(1)
    loss = 1 / (high - low + 1e-6)
    if features is not None and weight is not None:
        most = 0.5 * features.norm(dim=1)
        norms = weight.detach().norm(dim=1)
        loss = loss + (high.abs() - most * norms[at_high]).abs() + (low.abs() - most * norms[at_low]).abs()
    return loss.mean()


def activation_map(feature_map: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Where a network looks for a class: relu(Σ_k α_k A_k), α_k the spatial mean of ∂y_class/∂A_k, over its largest value.

    feature_map A [n, k, height, width] → [n, 1, height, width], with gradients.
    Source: Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2.
    """
    chosen = logits.gather(1, targets.unsqueeze(1)).sum()
    (slope,) = torch.autograd.grad(chosen, feature_map, create_graph=True)
    seen = torch.relu((slope.mean((2, 3), keepdim=True) * feature_map).sum(1, keepdim=True))
    return seen / seen.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)


@contextmanager
def last_linear(network: nn.Module) -> Iterator[list[tuple[nn.Linear, torch.Tensor]]]:
    """While the block runs, the list holds the linear layer that ran last, with its input."""
    seen: list[tuple[nn.Linear, torch.Tensor]] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Linear)
        seen[:] = [(module, arguments[0])]

    hooks = [m.register_forward_pre_hook(keep) for m in network.modules() if isinstance(m, nn.Linear)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def last_map(network: nn.Module) -> Iterator[list[torch.Tensor]]:
    """While the block runs, the list holds the last feature map [n, channels, height, width] of a convolution or batch norm."""
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
        seen[:] = [output]

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [m.register_forward_hook(keep) for m in network.modules() if isinstance(m, kinds)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@final
@dataclass(kw_only=True)
class Wishes(Guidance):
    """Weighted: `label` (the wished classes `targets` [count]), `spread` (`stretch`), `activation` (the student's and the
    `teacher`'s activation maps of the wished class alike).

    Source of the last: Kim et al. 2025, "SynQ", ICLR 2025, there of a quantized network and its float self.
    """

    targets: torch.Tensor
    label: float = 0.0
    easy: float = 1.0
    spread: float = 0.0
    activation: float = 0.0
    teacher: nn.Module | None = None
    _linear: list[tuple[nn.Linear, torch.Tensor]] = field(default_factory=list)
    _map: list[torch.Tensor] = field(default_factory=list)

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            self._linear = stack.enter_context(last_linear(network))
            self._map = stack.enter_context(last_map(network)) if self.activation else []
            yield

    def loss(self, shown: torch.Tensor, logits: torch.Tensor, part: slice) -> torch.Tensor:
        targets, total = self.targets[part], torch.zeros(())
        theirs, their_map = None, None
        if self.teacher is not None and (self.activation or (self.label and self.easy < 1)):
            with last_map(self.teacher) as seen:
                theirs = self.teacher(shown)
                their_map = seen[0] if seen else None
        if self.label:
            total = total + self.label * of_class(logits, targets, self.easy, theirs)
        if self.spread:
            module, features = self._linear[0] if self._linear else (None, None)
            fits = module is not None and module.out_features == logits.shape[1] and features is not None
            own = (features, module.weight) if fits and module is not None else (None, None)
            total = total + self.spread * stretch(logits, *own)
        if self.activation and theirs is not None and their_map is not None and self._map:
            ours = activation_map(self._map[0], logits, targets)
            total = total + self.activation * mse_loss(*same_size(ours, activation_map(their_map, theirs, targets)))
        return total
