"""The one training loop: distillation, recovery after pruning and quantization-aware training all run it.

It goes on from where a kill left it, to the same bits: whatever is random comes from (seed, epoch) alone, and a checkpoint
after each epoch holds model, what the losses learn or remember, optimizer, best weights and history together.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import nn

from edgekd import checkpoint
from edgekd.data import Dataset
from edgekd.errors import EdgekdError, UserError
from edgekd.mixing import mixed
from edgekd.objective import Objective
from edgekd.progress import Task
from edgekd.schedule import Training, rate
from edgekd.selection import selected
from edgekd.stage import Context

Load = Callable[[nn.Module, Mapping[str, torch.Tensor]], Any]

CHUNK = 512
"""Samples augmented together: part of what a view is."""


def train(
    model: nn.Module,
    objective: Objective,
    context: Context,
    training: Training,
    *,
    label: str,
    on_epoch: Callable[[int], Any] = lambda _epoch: None,
    set_mode: Callable[[nn.Module, bool], Any] = lambda model, training: model.train(training),
    load: Load = lambda model, tensors: model.load_state_dict(tensors),
) -> dict[str, Any]:
    """Train `model` in place, and leave it in eval mode with the weights of its best epoch on the validation split.

    `label` names the work to the user, and its checkpoint in `context.work`. `on_epoch(epoch)` is called before each epoch;
    a run that goes on calls it first with the epoch where it goes on, so compare with ≥. `set_mode(model, training)` and
    `load(model, tensors)` are for models with their own ways.

    Returns {"best": index of the best epoch, "epochs": [{"loss", "terms", "validation", "lr"}]} and, where modules were paired
    by depth and shape, "pairs": {loss: [student's, teacher's]}.
    Raises EdgekdError, naming epoch, step and loss, when the loss is not finite; UserError for mixtures that nothing tells of.
    """
    data = context.data()
    inputs, targets = data.train
    if training.mix in ("mixup", "cutmix") and not (objective.wants("logits") or objective.wants("features")):
        message = f'{label}: mix = "{training.mix}" makes samples that no label is for'
        raise UserError(message, hint='a loss that asks a teacher, as in { use = "kl" }, or mix = "selfmix"')
    path = context.work / f"{re.sub(r'[^a-z0-9]+', '-', label.lower())}.checkpoint"
    with torch.random.fork_rng(devices=[]):
        set_mode(model, False)
        layout = fastest_layout(model, inputs[:2])
        few = slice(max(2, objective.least))
        objective.prepare(model, inputs[few], targets[few], derive(context.seed, "projectors"), len(inputs))
        for name, (student, teacher) in objective.pairs.items():
            theirs = teacher if teacher == "logits" else f'"{teacher}"'
            context.progress.say(f'  {label}: {name} compares "{student}" with the teacher\'s {theirs}')
        run = _Run(model, objective, _optimizer(model, objective, training), layout, load)
        origin = run.origin(label, training, context.seed)
        run.resume(path, origin)
        steps = sum(1 for _ in batches(training.used(len(inputs)), training.batch, 0, objective.least))
        with context.progress.task(label, total=steps * training.epochs) as task:
            task.advance(steps * len(run.epochs))
            for epoch in range(len(run.epochs), training.epochs):
                torch.manual_seed(derive(context.seed, "epoch", epoch))
                on_epoch(epoch)
                split = _split(run, epoch, training, context, label)
                set_mode(model, True)
                facts = _epoch(run, epoch, split, training, context, f"{label}: epoch {epoch + 1}", task)
                set_mode(model, False)
                run.finish({**facts, "validation": _score(model, data, context, label)})
                checkpoint.write(path, *run.state(origin))
                task.advance(0, run.note())
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # the stub lacks this form
    load(model, run.best)
    set_mode(model, False)
    history = {"best": run.best_epoch, "epochs": run.epochs}
    return {**history, "pairs": objective.pairs} if objective.pairs else history


def logits_of(module: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Outputs [n, classes] of a network that is in eval mode, for inputs [n, ...], without gradients, `batch` at a time."""
    with torch.no_grad():
        return torch.cat([module(part) for part in inputs.split(batch)])


def derive(seed: int, *parts: object) -> int:
    """A seed for one purpose, such as `derive(0, "epoch", 3)`: the same wherever and whenever it is asked for."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def view(data: Dataset, seed: int) -> torch.Tensor:
    """The training inputs [n, ...], augmented with `seed`; as they are where the data has no augmentation."""
    if data.augment is None:
        return data.train[0]
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([data.augment(chunk, generator) for chunk in data.train[0].split(CHUNK)])


def batches(count: int, size: int, seed: int, least: int = 2) -> Iterator[torch.Tensor]:
    """Shuffled indices of `count` samples, `size` at a time. A last batch of one, on which batch norm has no variance, is left
    out, and so is one smaller than `least`, on which a loss cannot be computed.

    >>> sorted(len(batch) for batch in batches(10, 4, seed=0)), [len(batch) for batch in batches(9, 4, seed=0)]
    ([2, 4, 4], [4, 4])
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for batch in order.split(size):
        if len(batch) >= min(max(least, 2), size, count):
            yield batch


def fastest_layout(model: nn.Module, inputs: torch.Tensor) -> torch.memory_format:
    """Put a network of images [batch, channels, height, width] into channels-last, where its code allows that.

    A `view` that counts on the other layout fails in the trial run, and the network stays as it was.
    """
    if inputs.dim() == 4:
        with suppress(RuntimeError):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stub lacks this form
            logits_of(model, inputs.contiguous(memory_format=torch.channels_last))
            return torch.channels_last
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return torch.contiguous_format


@dataclass
class _Run:
    """What changes while training, and how it becomes a checkpoint."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    layout: torch.memory_format
    load: Load
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, torch.Tensor] = field(default_factory=dict)

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
        if not self.best or facts["validation"] > self.epochs[self.best_epoch]["validation"]:
            self.best_epoch = len(self.epochs) - 1
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def origin(self, label: str, training: Training, seed: int) -> str:
        """What this run began from: a checkpoint that began from anything else is of another run."""
        own = {f.name: getattr(training, f.name) for f in fields(Training)}
        terms = {name: [weight, repr(loss)] for name, (weight, loss) in self.objective.terms.items()}
        facts = {"label": label, "training": own, "terms": terms, "seed": seed}
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


def _optimizer(model: nn.Module, objective: Objective, training: Training) -> torch.optim.Optimizer:
    trained = [p for module in (model, objective.learned) for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=training.lr)


def _epoch(
    run: _Run, epoch: int, split: _Split, training: Training, context: Context, where: str, task: Task
) -> dict[str, Any]:
    """One pass over the training split. Returns the mean loss, the mean of each of its terms, and the last learning rate."""
    inputs, targets, logits = split.inputs, split.targets, split.logits
    shuffled = batches(len(split.used), training.batch, derive(context.seed, "order", epoch), run.objective.least)
    order = [split.used[batch] for batch in shuffled]
    steps = training.epochs * len(order)
    warmup = min(round(training.warmup_epochs * len(order)), steps // 2)
    sums = dict.fromkeys(run.objective.terms, 0.0)
    for step, batch in enumerate(order):
        done = epoch * len(order) + step
        lr = rate(done, steps, warmup, training.lr)
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        x = inputs[batch].contiguous(memory_format=run.layout)
        known = None if logits is None else logits[batch]
        terms = run.objective(run.model, x, targets[batch], known, progress=done / steps, samples=batch)
        run.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(run.parameters, training.clip)
        values = {name: float(term.detach()) for name, term in terms.items()}
        _finite(values, float(norm), f"{where}, step {step + 1}")
        run.optimizer.step()
        for name, value in values.items():
            sums[name] += value * len(batch)
        task.advance(note=run.note(sum(values.values())))
    count = sum(map(len, order))
    means = {name: value / count for name, value in sums.items()}
    return {"loss": sum(means.values()), "terms": means, "lr": lr}


@dataclass(frozen=True)
class _Split:
    """What an epoch trains on: inputs [n, ...], targets [n], the teacher's logits if wanted and known, indices of samples."""

    inputs: torch.Tensor
    targets: torch.Tensor
    logits: torch.Tensor | None
    used: torch.Tensor


def _split(run: _Run, epoch: int, training: Training, context: Context, label: str) -> _Split:
    """The view of an epoch, mixed, and what of it is selected. The model is in eval mode. Raises UserError where nothing selects."""
    data, mix = context.data(), training.mix != "none"
    varied = mix or data.augment is not None
    fresh = varied and training.views == 0
    number = epoch if fresh else epoch % max(training.views, 1)
    seed = derive(context.seed, "fresh" if fresh else "view", number)
    inputs, targets = mixed(training.mix, view(data, seed), data.train[1], training.mix_share, derive(seed, "mix"))
    logits, used = None, torch.arange(len(inputs))
    if run.objective.wants("logits") and not fresh:
        name = f"train view {number} seed {context.seed}" if varied else "train"
        name += f" {training.mix} {training.mix_share}" if mix else ""
        logits = context.teacher_logits(name, lambda: inputs)
    if training.select != "all":
        if logits is None:
            message = f'{label}: select = "{training.select}" asks for the teacher\'s answer to each sample beforehand'
            raise UserError(message, hint="a loss on the teacher's logits, and views of 1 or more")
        ours = partial(logits_of, lambda x: run.model(x.contiguous(memory_format=run.layout)), inputs)
        chance = derive(context.seed, "select", epoch)
        used = selected(training.select, training.select_share, logits, ours, chance)
    return _Split(inputs, targets, logits, used)


def _finite(losses: Mapping[str, float], gradient: float, where: str) -> None:
    named = {f'the loss "{name}"': value for name, value in losses.items()}
    for what, value in {**named, "the gradient's norm": gradient}.items():
        if not math.isfinite(value):
            hint = "a lower lr, a longer warm-up (warmup_epochs), a smaller clip, or a smaller weight of that loss"
            raise EdgekdError(f"{where}: {what} is {value}", hint=hint)


def _score(model: nn.Module, data: Dataset, context: Context, label: str) -> float:
    """The metric on the validation split, higher is better."""
    inputs, targets = data.validation
    score = float(context.metric(logits_of(model, inputs).numpy(), targets.numpy()))
    if not math.isfinite(score):
        raise EdgekdError(f"{label}: the validation metric is {score}", hint="a lower lr, or look at the metric")
    return score
