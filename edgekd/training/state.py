"""What changes while a student trains, and how it becomes a checkpoint that the training goes on from to the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from edgekd.training import checkpoint
from edgekd.training.objective import Objective
from edgekd.training.schedule import Training

Load = Callable[[nn.Module, Mapping[str, torch.Tensor]], Any]


@dataclass
class TrainingState:
    """Of one training: the model, what its losses learn, the optimizer, the best weights and the history."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    layout: torch.memory_format
    load: Load
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    latest: bool = False
    """Whether the last epoch counts as the best, whatever validation says."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def note(self, loss: float | None = None) -> str:
        """What the progress bar shows: the loss (of the last epoch, unless given), and the last validation metric."""
        if not self.epochs:
            return "" if loss is None else f"loss {loss:.3f}"
        last = self.epochs[-1]
        return f"loss {last['loss'] if loss is None else loss:.3f}  validation {last['validation']:.4f}"

    def finish(self, facts: dict[str, Any]) -> None:
        """Close an epoch. Of two that are equally good, the first is the best."""
        self.epochs.append(facts)
        known = self.best and not self.latest
        if not known or facts["validation"] > self.epochs[self.best_epoch]["validation"]:
            self.best_epoch = len(self.epochs) - 1
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def origin(self, label: str, training: Training, seed: int, ways: Mapping[str, Any]) -> str:
        """What this run began from: a checkpoint that began from anything else is of another run."""
        own = {f.name: getattr(training, f.name) for f in fields(Training)}
        terms = {name: [weight, repr(loss)] for name, (weight, loss) in self.objective.terms.items()}
        of: dict[str, Any] = {"of": self.objective.of} if self.objective.of else {}
        of |= {"peer": self.objective.arguments} if self.objective.arguments else {}
        of |= {"added": self.objective.added.settings} if self.objective.added is not None else {}
        facts = {"label": label, "training": own, "terms": terms, "seed": seed, **of, **ways}
        return hashlib.sha256(checkpoint.encode(self.model.state_dict(), facts)).hexdigest()

    def state(self, origin: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors |= {f"learned/{name}": value for name, value in self.objective.learned.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optimizer/{index}/{name}"] = value
        return tensors, {"origin": origin, "epochs": self.epochs, "best": self.best_epoch}

    def resume(self, path: Any, origin: str) -> None:
        """Go on from a checkpoint, if there is a whole one of this run."""
        found = checkpoint.read(path)
        if found is None or found[1]["origin"] != origin:
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}, "learned": {}, "optimizer": {}}
        for key, value in found[0].items():
            kind, _, name = key.partition("/")
            parts[kind][name] = value
        self.load(self.model, parts["model"])
        self.objective.learned.load_state_dict(parts["learned"])
        for key, value in parts["optimizer"].items():
            index, _, name = key.partition("/")
            parameter = self.parameters[int(index)]
            like = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            self.optimizer.state[parameter][name] = like  # in the parameter's own layout, as before
        self.best, self.best_epoch, self.epochs = parts["best"], found[1]["best"], found[1]["epochs"]


def optimizer_of(
    model: nn.Module, objective: Objective, training: Training, fused: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of what the model and its losses learn; biases and normalisation do not decay.

    A group's "times" is what the learning rate of a step is multiplied by for it, 1 where it has none.
    """
    apart, highest = objective.added.faster if objective.added is not None else ([], 0.0)
    others = {id(p) for p in apart}
    every = [p for module in (model, objective.learned) for p in module.parameters() if p.requires_grad]
    trained = [p for p in every if id(p) not in others]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if apart:
        groups.append({"params": apart, "weight_decay": 0.0, "times": highest / training.lr})
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9, nesterov=True, fused=fused or None)
    return torch.optim.AdamW(groups, lr=training.lr, fused=fused or None)


def parts(batch: torch.Tensor, count: int, least: int) -> tuple[torch.Tensor, ...]:
    """The batch in `count` parts that are computed one after another, or in fewer where one would have less than `least`.

    >>> [len(part) for part in parts(torch.arange(10), 4, 2)], [len(part) for part in parts(torch.arange(5), 4, 2)]
    ([3, 3, 2, 2], [3, 2])
    """
    return batch.tensor_split(max(1, min(count, len(batch) // least)))
