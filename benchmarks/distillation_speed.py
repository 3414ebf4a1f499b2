"""Samples a second of a distillation, for benchmarks/distillation.py: edgekd's training loop beside the same written by hand.

The example's teacher and students, cross-entropy and KL, batches of 128, augmented. One epoch of edgekd's `train` and one of plain
PyTorch in turn, in one process, so that both meet the same machine; the ratio of each round, its mean with a 95% interval. edgekd's
epoch has all that it does: a view of the data, the loss's checks, validation on 256 samples and a checkpoint. Once the teacher is
asked at each step, once its outputs are kept.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from distillation_recipe import FASHION, Found, Setting
from paired import interval
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from edgekd.data import Dataset
from edgekd.metric import accuracy
from edgekd.progress import Progress
from edgekd.stage import Context, Use
from edgekd.teachers.module import Module
from edgekd.training.objective import Objective
from edgekd.training.schedule import Training, rate
from edgekd.training.train import train

COUNT, BATCH, ROUNDS, TAU, LR = 4096, 128, 7, 4.0, 3e-3
LOSSES = (Use("cross_entropy", (1.0, 1.0), {}), Use("kl", (1.0, 1.0), {"temperature": TAU}))


@dataclass
class Plain:
    """The same training by hand: a batch is augmented, teacher and student are asked, AdamW steps along a clipped gradient."""

    student: nn.Module
    teacher: nn.Module
    data: Dataset
    steps: int
    done: int = 0

    def __post_init__(self) -> None:
        self.student.to(memory_format=torch.channels_last)
        self.teacher.to(memory_format=torch.channels_last)
        decayed = [p for p in self.student.parameters() if p.dim() > 1]
        others = [p for p in self.student.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 1e-2}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR)
        self.generator = torch.Generator().manual_seed(0)

    def epoch(self) -> None:
        images, labels = self.data.train
        assert self.data.augment is not None
        self.student.train()
        for batch in torch.randperm(len(images), generator=self.generator).split(BATCH):
            x = self.data.augment(images[batch], self.generator).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                theirs = self.teacher(x)
            ours = self.student(x)
            q, p = log_softmax(ours / TAU, 1), log_softmax(theirs / TAU, 1)
            loss = cross_entropy(ours, labels[batch]) + TAU**2 * kl_div(q, p, reduction="batchmean", log_target=True)
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.done, self.steps, 0, LR)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
            self.optimizer.step()
            self.done += 1
        self.student.eval()
        with torch.no_grad():
            self.student(self.data.validation[0])


def speed(setting: Setting) -> Found:
    """{size: {"live", "cached": {"ratio": (mean, low, high), "edgekd", "plain": samples a second}, "teacher share"}}."""
    from distillation_fashion import STUDENTS

    sizes = list(STUDENTS.items())[: 1 if setting.smoke else None]
    return {size: measured(setting, width) for size, width in sizes}


def measured(setting: Setting, width: int) -> Found:
    """Both ways for one student, and the teacher's time beside the student's."""
    from fashion import augment, debian, student, teacher, tensors

    count, rounds = (256, 2) if setting.smoke else (COUNT, ROUNDS)
    splits = {name: tensors(*arrays) for name, arrays in debian().items()}
    held, looked = ({name: (x[:n], y[:n]) for name, (x, y) in splits.items()} for n in (count, 256))
    data = Dataset(held["train"], looked["validation"], looked["test"], augment=augment)
    weights = {
        k: v.float() if v.is_floating_point() else v for k, v in load_file(FASHION / "teacher.safetensors").items()
    }

    def taught() -> nn.Module:
        network = teacher()
        network.load_state_dict(weights)
        return network.eval().requires_grad_(False)

    found: Found = {}
    for name, views in (("live", 0), ("cached", 1)):
        steps = (rounds + 1) * -(-count // BATCH)
        torch.manual_seed(0)
        plain = Plain(student(width), taught(), data, steps)
        torch.manual_seed(0)
        pairs = rounds_of(setting, student(width), Module(taught()), data, plain, views, rounds)
        logs = [np.log(theirs / ours) for ours, theirs in pairs]
        found[name] = {
            "ratio": [float(np.exp(value)) for value in interval(logs)],
            "edgekd": count / statistics.median(ours for ours, _ in pairs),
            "plain": count / statistics.median(theirs for _, theirs in pairs),
        }
    x = data.train[0][:BATCH].contiguous(memory_format=torch.channels_last)
    network = student(width).to(memory_format=torch.channels_last)
    asked = _seconds(partial(_asked, taught().to(memory_format=torch.channels_last), x))
    found["teacher_costs"] = asked / _seconds(lambda: network(x).sum().backward())
    return found


def rounds_of(
    setting: Setting, student: nn.Module, teacher: Module, data: Dataset, plain: Plain, views: int, rounds: int
) -> list[tuple[float, float]]:
    """(seconds of an epoch of edgekd's, of one by hand) of each round; the first round warms up and is left out."""
    theirs: list[float] = []
    marks: list[float] = []
    ours: list[float] = []

    def between(_epoch: int) -> None:
        if marks:
            ours.append(time.perf_counter() - marks[-1])
        started = time.perf_counter()
        plain.epoch()
        theirs.append(time.perf_counter() - started)
        marks.append(time.perf_counter())

    work = setting.work / "speed"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    training = Training(epochs=rounds + 1, batch=BATCH, lr=LR, warmup_epochs=0.0, views=views)
    objective = Objective(LOSSES, lambda: teacher)
    train(student, objective, _context(teacher, data, work), training, label="speed", on_epoch=between)
    ours.append(time.perf_counter() - marks[-1])
    shutil.rmtree(work)
    return list(zip(ours, theirs, strict=True))[1:]


def _context(teacher: Module, data: Dataset, work: Any) -> Context:
    """What `train` asks for: the data, the teacher, its outputs once computed, and a folder."""
    known: dict[str, torch.Tensor] = {}

    def logits(name: str, inputs: Callable[[], torch.Tensor]) -> torch.Tensor:
        if name not in known:
            known[name] = torch.cat([teacher.outputs(part) for part in inputs().split(256)])
        return known[name]

    def unused() -> Any:
        raise AssertionError("a training asks for none")

    return Context(
        factory=lambda *_, **__: unused(),
        data=lambda: data,
        metric=accuracy,
        teacher=lambda: teacher,
        teacher_logits=logits,
        calibration=unused,
        pricing=unused,
        observer="minmax",
        progress=Progress(quiet=True),
        work=work,
        seed=0,
        channel_multiple=1,
        grid="affine",
    )


def _asked(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(x)
    return found


def _seconds(run: Callable[[], Any], times: int = 15) -> float:
    """The median of a few runs, after one that warms up."""
    run()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def speed_page(found: Found, _setting: Found) -> tuple[list[str], list[str]]:
    """(the table, rows of bars) as Markdown."""
    lines = [
        "## Throughput",
        "",
        (
            "Samples a second of a distillation with cross-entropy and KL; edgekd's over plain PyTorch's of the same round, with a 95% "
            f"interval; {ROUNDS} rounds in turn. Plain PyTorch asks the teacher at each step."
        ),
        "",
        "| student | teacher's time over the student's | plain | edgekd | ratio | edgekd, outputs kept | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, one in found.items():
        cells = [f"{one['teacher_costs']:.2f}", f"{one['live']['plain']:,.0f}"]
        for name in ("live", "cached"):
            mean, low, high = one[name]["ratio"]
            cells += [f"{one[name]['edgekd']:,.0f}", f"{mean:.2f} ({low:.2f} to {high:.2f})"]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    live = min(one["live"]["ratio"][0] for one in found.values())
    costly = [one["cached"]["ratio"][0] for one in found.values() if one["teacher_costs"] >= 1]
    bars = [f"| samples a second, over plain PyTorch | at least 0.95× | {live:.2f}× (worst) | {_met(live >= 0.95)} |"]
    if costly:
        least = min(costly)
        bars.append(
            f"| the same with the teacher's outputs kept, plain asks it | at least 1.5× | {least:.2f}× (worst) | {_met(least >= 1.5)} |"
        )
    return [*lines, ""], bars


def _met(yes: bool) -> str:
    return "met" if yes else "**missed**"
