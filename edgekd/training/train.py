"""The one training loop: distillation, recovery after pruning and quantization-aware training all run it.

It goes on from where a kill left it, to the same bits: whatever is random comes from (seed, epoch) alone, and a checkpoint
after each epoch holds model, what the losses learn or remember, optimizer, best weights and history together.
"""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from edgekd.data import Dataset
from edgekd.errors import EdgekdError, UserError
from edgekd.progress import Task
from edgekd.stage import Context
from edgekd.training import checkpoint
from edgekd.training.batch_statistics import needs_two
from edgekd.training.divided import divide, unite
from edgekd.training.mixing import mixed
from edgekd.training.objective import Objective
from edgekd.training.schedule import Training, rate
from edgekd.training.selection import Answers, selected
from edgekd.training.state import Load, TrainingState, optimizer_of, parts

CHUNK = 512
"""Samples augmented together: part of what a view is."""
USUAL = [1, "32", False]
"""A batch at once, in float32, by an optimizer that is not fused."""


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
    before: nn.Module | None = None,
    latest: bool = False,
) -> dict[str, Any]:
    """Train `model` in place, and leave it in eval mode with the weights of its best epoch on the validation split, or, `latest`,
    of the last one.

    `label` names the work to the user, and its checkpoint in `context.work`. `on_epoch(epoch)` is called before each epoch;
    a run that goes on calls it first with the epoch where it goes on, so compare with ≥. `set_mode(model, training)` and
    `load(model, tensors)` are for models with their own ways. `before`: the student of the stage before, where `model` is not
    that one. Where `context.world` is several processes, all call this alike, and all end with the same model.

    Returns {"best": index of the best epoch, "epochs": [{"loss", "terms", "validation", "lr"}]} and, where modules were paired
    by depth and shape, "pairs": {loss: [student's, teacher's]}.
    Raises EdgekdError, naming epoch, step and loss, when the loss is not finite; UserError for mixtures that nothing tells of,
    and for too small a batch to share.
    """
    data, world = context.data(), context.world()
    inputs, targets = data.train
    labelled = targets.is_floating_point() and training.mix != "project"
    if training.mix in ("mixup", "cutmix", "project") and not (labelled or _hears(objective)):
        message = f'{label}: mix = "{training.mix}" makes samples that no label is for'
        raise UserError(message, hint='a loss that asks a teacher, as in { use = "kl" }, or mix = "selfmix"')
    path = context.work / f"{re.sub(r'[^a-z0-9]+', '-', label.lower())}.checkpoint"
    with torch.random.fork_rng(devices=[]):
        set_mode(model, False)
        layout = fastest_layout(model, inputs[:2])
        few = slice(max(2, objective.least))
        objective.balance(training.balance)
        objective.prepare(model, inputs[few], targets[few], derive(context.seed, "projectors"), len(inputs))
        divide(model, objective.losses, "average" in objective.companions.networks)
        for name, (student, teacher) in objective.pairs.items():
            theirs = "logits" if teacher == "logits" else f'"{teacher}"'
            what = f'compares "{student}" with the teacher\'s {theirs}' if teacher else f'reads "{student}"'
            context.progress.say(f"  {label}: {name} {what}")
        optimizer = optimizer_of(model, objective, training, context.fused)
        run = TrainingState(model, objective, optimizer, layout, load, latest=latest)
        least = _least(run, training, context, label)
        origin = _origin(run, label, training, context)
        if training.select == "difference":
            before = (before or copy.deepcopy(model)).eval()
        run.resume(path, origin)
        if world.agreed(lambda: len(run.epochs)) != len(run.epochs):
            message = f"{label}: process {world.rank + 1} of {world.size} does not see the checkpoint {path}"
            raise UserError(message, hint="--store must be a folder that every process sees")
        steps = sum(1 for _ in batches(training.used(len(inputs)), training.batch, 0, least))
        with context.progress.task(label, total=steps * training.epochs) as task:
            task.advance(steps * len(run.epochs))
            for epoch in range(len(run.epochs), training.epochs):
                torch.manual_seed(derive(context.seed, "epoch", epoch))
                on_epoch(epoch)
                split = _split(run, epoch, training, context, label, before or model)
                set_mode(model, True)
                facts = _epoch(run, epoch, split, training, context, f"{label}: epoch {epoch + 1}", task)
                set_mode(model, False)
                run.finish({**facts, "validation": _score(model, data, context, label)})
                if world.first:
                    checkpoint.write(path, *run.state(origin))
                task.advance(0, run.note())
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # the stub lacks this form
    load(model, run.best)
    unite(model, objective.losses.values())
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


def _hears(objective: Objective) -> bool:
    """Whether some loss hears of whom the student learns from what a sample is."""
    return bool(objective.of) or any(map(objective.wants, ("logits", "members", "features", "masked")))


def _least(run: TrainingState, training: Training, context: Context, label: str) -> int:
    """The smallest batch. Raises UserError where a batch, or all samples, are too few for every process to have one, or for batch
    norm to have a variance, and for a loss whose gradient of the student's own weights each process would add.
    """
    size, count = context.world().size, training.used(len(context.data().train[0]))
    if min(training.batch, count) == 1 and needs_two(run.model, context.data().train[0][:1]):
        raise UserError(f"{label}: in a batch of one, batch norm has no variance", hint="a batch of 2 or more")
    for name, loss in run.objective.losses.items():
        if size > 1 and "layer" in getattr(loss, "also", ()):
            message = f'{label}: the loss "{name}" reads weights of the student, which {size} processes would count {size} times'
            raise UserError(message, hint="devices = 1 in [train], or another loss")
    if min(training.batch, count) < size:
        few = f"a batch of {training.batch}" if training.batch < size else f"{count} training samples"
        raise UserError(f"{label}: {few} cannot be shared by {size} processes", hint="fewer devices in [train]")
    return max(int(run.objective.least), size)


def _origin(run: TrainingState, label: str, training: Training, context: Context) -> str:
    """What this run began from; where several processes train, all begin from what the first one has."""
    world = context.world()
    if world.size > 1:
        run.load(run.model, world.same(run.model.state_dict()))
        run.objective.learned.load_state_dict(world.same(run.objective.learned.state_dict()))
    ways = [context.accumulate, world.precision, context.fused]
    return str(world.agreed(lambda: run.origin(label, training, context.seed, {} if ways == USUAL else {"ways": ways})))


def _epoch(
    run: TrainingState, epoch: int, split: _Split, training: Training, context: Context, where: str, task: Task
) -> dict[str, Any]:
    """One pass over the training split. Returns the mean loss, the mean of each of its terms, and the last learning rate."""
    world = context.world()
    inputs, targets, known = split.inputs, split.targets, split.known
    least = max(run.objective.least, world.size)
    shuffled = batches(len(split.used), training.batch, derive(context.seed, "order", epoch), least)
    order = [split.used[batch] for batch in shuffled]
    steps = training.epochs * len(order)
    warmup = min(round(training.warmup_epochs * len(order)), steps // 2)
    sums: dict[str, float] = {}
    for step, batch in enumerate(order):
        done = epoch * len(order) + step
        lr = rate(done, steps, warmup, training.lr)
        for group in run.optimizer.param_groups:
            group["lr"] = lr * group.get("times", 1.0)
        run.optimizer.zero_grad()
        values: dict[str, float] = {}
        for number, part in enumerate(parts(batch, context.accumulate, max(least, 2))):
            world.draw(derive(context.seed, "draws", epoch, step, number))
            x = inputs[world.own(part)].contiguous(memory_format=run.layout)
            told = {name: rows[part] for name, rows in known.items()}
            also: dict[str, Any] = {"progress": done / steps, "samples": part, "world": world, **told}
            terms = run.objective(run.model, x, targets[part], **also)
            share = len(part) / len(batch)
            loss = torch.stack(list(terms.values())).sum()
            world.backward(loss if share == 1 else share * loss)
            for name, term in terms.items():
                values[name] = values.get(name, 0.0) + share * float(term.detach())
        world.reduce(*run.objective.gradients(run.model))
        norm = nn.utils.clip_grad_norm_(run.parameters, training.clip)
        _finite(values, float(norm), f"{where}, step {step + 1}")
        run.optimizer.step()
        run.objective.companions.follow(run.model)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * len(batch)
        task.advance(note=run.note(sum(values.values())))
    count = sum(map(len, order))
    means = {name: value / count for name, value in sums.items()}
    return {"loss": sum(means.values()), "terms": means, "lr": lr}


@dataclass(frozen=True)
class _Split:
    """What an epoch trains on: inputs [n, ...], targets [n], indices of the samples used; `known`: what the teacher says of all of
    them at once, where that is wanted: "teacher" [n, classes], "members" [n, members, classes].
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    known: dict[str, torch.Tensor]
    used: torch.Tensor


def _split(
    run: TrainingState, epoch: int, training: Training, context: Context, label: str, before: nn.Module
) -> _Split:
    """The view of an epoch, mixed, and what of it is selected. The model is in eval mode. Raises UserError where nothing selects."""
    data, mix = context.data(), training.mix != "none"
    varied = mix or data.augment is not None
    fresh = varied and training.views == 0
    number = epoch if fresh else epoch % max(training.views, 1)
    seed = derive(context.seed, "fresh" if fresh else "view", number)
    plain, chance = view(data, seed), derive(seed, "mix")
    inputs, targets = mixed(training.mix, plain, data.train[1], training.mix_share, chance, context.teacher)
    known: dict[str, torch.Tensor] = {}
    name = f"train view {number} seed {context.seed}" if varied else "train"
    name += f" {training.mix} {training.mix_share}" if mix else ""
    if run.objective.wants("logits") and not fresh:
        known["teacher"] = context.teacher_logits(name, lambda: inputs)
    if run.objective.wants("members") and not fresh:
        known["members"] = context.teacher_logits(name, lambda: inputs, each=True)
    used = torch.arange(len(inputs))
    if training.select != "all":
        if "teacher" not in known:
            message = f'{label}: select = "{training.select}" asks for the teacher\'s answer to each sample beforehand'
            raise UserError(message, hint="a loss on the teacher's logits, and views of 1 or more")

        def answers(network: nn.Module) -> Answers:
            own = partial(logits_of, lambda x: network(x.contiguous(memory_format=run.layout)))
            return partial(context.world().shared, own, inputs)

        ours, theirs, chance = answers(run.model), answers(before), derive(context.seed, "select", epoch)
        used = selected(training.select, training.select_share, known["teacher"], ours, chance, targets, theirs)
        used = context.world().same({"used": used})["used"]  # machines round differently
    return _Split(inputs, targets, known, used)


def _finite(losses: Mapping[str, float], gradient: float, where: str) -> None:
    named = {f'the loss "{name}"': value for name, value in losses.items()}
    for what, value in {**named, "the gradient's norm": gradient}.items():
        if not math.isfinite(value):
            hint = "a lower lr, a longer warm-up (warmup_epochs), a smaller clip, or a smaller weight of that loss"
            raise EdgekdError(f"{where}: {what} is {value}", hint=hint)


def _score(model: nn.Module, data: Dataset, context: Context, label: str) -> float:
    """The metric on the validation split, higher is better: of all outputs, whichever process computed them."""
    inputs, targets = data.validation
    outputs = context.world().shared(lambda part: logits_of(model, part), inputs)
    score = float(context.world().agreed(lambda: float(context.metric(outputs.numpy(), targets.numpy()))))
    if not math.isfinite(score):
        raise EdgekdError(f"{label}: the validation metric is {score}", hint="a lower lr, or look at the metric")
    return score
