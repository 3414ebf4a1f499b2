"""A short training of a tiny student, as the tests of the loop run it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tiny import TinyNet, noisy, tiny_data
from torch import nn

from edgekd.stage import Context, uses
from edgekd.training.objective import Objective
from edgekd.training.schedule import Training
from edgekd.training.train import train

KL = {"use": "kl", "temperature": 2.0}
LABELS = {"use": "cross_entropy"}
HINT = {"use": "hint", "student": "block", "teacher": "block"}
SHORT = Training(epochs=3, batch=48, lr=1e-2)
NOISY = replace(tiny_data(), augment=noisy)


def run(
    context: Context, training: Training = SHORT, *losses: dict[str, Any], model: nn.Module | None = None, **more: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a student with dropout, the same one each time, unless another is given."""
    if model is None:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            model = TinyNet(dropout=0.2)
    objective = Objective(uses(losses or [KL], "losses"), context.teacher, context.factory)
    return model, train(model, objective, context, training, label="distill", **more)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs)


def stop_at(epoch: int) -> Callable[[int], None]:
    """Ctrl-C as that epoch begins."""

    def on_epoch(now: int) -> None:
        if now == epoch:
            raise KeyboardInterrupt

    return on_epoch
