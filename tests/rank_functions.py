"""What test_world.py and test_ranks.py ask several processes to do together."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from short_training import NOISY, run
from tiny import tiny_context, tiny_data, tiny_student

from edgekd.errors import EdgekdError
from edgekd.stage import Context, uses
from edgekd.teachers.module import Module
from edgekd.training.objective import Objective
from edgekd.training.schedule import Training
from edgekd.training.world import World

# A loss on labels, one on logits, one that compares the samples of a batch, one with a projector and a memory.
LOSSES = [{"use": "cross_entropy"}, {"use": "kl"}, {"use": "rkd"}, {"use": "similarity_queue", "size": 64}]
TRAINING = Training(epochs=2, batch=50, lr=0.02, optimizer="sgd", views=2)  # 256 = 5 · 50 + 6: a smaller last batch


# Losses that run a part of a network again: the student on masked images, the teacher's end on the student's features.
AGAIN = [{"use": "masked_partial"}, {"use": "cross_head"}, {"use": "task_units", "observe": 0.0}]


def again(world: World) -> dict[str, torch.Tensor]:
    """What such losses are of one batch, their gradients, and the running statistics, from the same random numbers."""
    inputs, targets = (x[:11] for x in tiny_data().train)
    model = tiny_student().train()
    objective = Objective(uses(AGAIN, "losses"), lambda: Module(tiny_student(16, 7)))
    objective.prepare(model, inputs, targets, 0)
    torch.manual_seed(3)
    terms = objective(model, world.own(inputs), targets, world=world)
    world.backward(torch.stack(list(terms.values())).sum())
    world.reduce(*objective.gradients(model))
    trained = [*model.named_parameters(), *objective.learned.named_parameters()]
    gradients = {f"of {name}": p.grad for name, p in trained if p.grad is not None}
    held = {name: value.detach().clone().contiguous() for name, value in (*gradients.items(), *terms.items())}
    return held | {name: value for name, value in model.named_buffers() if value.is_floating_point()}


def context(folder: Path, world: World) -> Context:
    return tiny_context(folder, data=NOISY, world=lambda: world)


def trained(folder: Path, world: World, **more: Any) -> dict[str, Any]:
    """Train in `folder`, write this process's weights there; the history, and the epochs that were run."""
    seen: list[int] = []

    def on_epoch(epoch: int) -> None:
        seen.append(epoch)
        if (epoch, world.rank) == (more.get("kill_in"), 1):
            os.kill(os.getpid(), signal.SIGKILL)

    folder.mkdir(exist_ok=True)
    model, history = run(context(folder, world), TRAINING, *LOSSES, model=tiny_student(), on_epoch=on_epoch)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / f"{world.rank}.st")
    return {"history": history, "seen": seen}


def train(request: dict[str, Any], tell: Any) -> dict[str, Any]:
    """{"folder", "rank", "size"}: one of several processes. They train in "whole", and in "cut" until the second is killed; the
    first then says what it notices.
    """
    folder, rank, size = Path(request["folder"]), request["rank"], request["size"]
    world = World.joined(rank, size, size, "32")
    assert world.agreed(lambda: {"said": ["by", rank]}) == {"said": ["by", 0]}
    (folder / f"{rank}.json").write_text(json.dumps(trained(folder / "whole", world)))
    save_file(again(world), folder / f"{rank}-again.st")
    try:
        return trained(folder / "cut", world, kill_in=1)
    except EdgekdError as error:
        (folder / "error").write_text(str(error))
        raise


def mixed(folder: Path) -> tuple[Any, dict[str, Any]]:
    """One process in bfloat16."""
    world = World.alone("bf16-mixed")
    return run(replace(context(folder, world)), replace(TRAINING, epochs=6), *LOSSES, model=tiny_student())
