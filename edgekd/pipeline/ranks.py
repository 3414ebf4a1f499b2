"""A stage that trains, run by several processes: started here and watched, or by torchrun, which watches them itself.

    edgekd compile recipe.toml --set train.devices=2                           two on this machine
    torchrun --nnodes 2 --nproc-per-node 4 … -m edgekd compile recipe.toml     four on each of two

All of them plan the same recipe, read the same store, and run the stage; the first one's result counts. Under torchrun the
first process runs the whole recipe, and the others wait to be told a stage's name.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import StoreError
from edgekd.sections import TrainSection
from edgekd.store import FULL
from edgekd.workers import INSTALL

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.stage import Stage
    from edgekd.training.world import World

Run = Callable[[Path, Callable[[], "World"]], dict[str, Any]]
"""(folder, processes) -> what a stage returns, its result written into the folder."""


def made(plan: Plan, name: str, stage: Stage, out: Path) -> dict[str, Any]:
    """Run the stage of the step `name`, in as many processes as the recipe or torchrun says, if it trains."""
    train, run, world = plan.values.train, plan.runs[name], plan.world
    if world is not None and _trains(stage):
        plan.shared = name
        world.agreed(lambda: name)
        facts = run(out, lambda: world)
        plan.shared = ""
        return facts
    if train.devices > 1 and _trains(stage):
        return _started(plan, name, out)
    return run(out, partial(_alone, train.precision if _trains(stage) else "32"))


def ways(train: TrainSection, stage: Stage) -> dict[str, Any]:
    """What of [train] the result of a stage depends on, where the stage trains and that is not as usual."""
    usual, found = (section.model_dump(exclude={"devices"}) for section in (TrainSection(), train))
    return found if _trains(stage) and found != usual else {}


def check(plan: Plan) -> None:
    """Raises UserError, with the recipe's line, where what [train] asks for is not installed."""
    train = plan.values.train
    for key, asked in (("devices", train.devices > 1), ("precision", train.precision != "32")):
        if asked and find_spec("lightning_fabric") is None:
            raise plan.recipe.error(["train", key], "needs Lightning Fabric", INSTALL)


def _trains(stage: Stage) -> bool:
    return bool(stage.objective()[1]) and getattr(stage, "epochs", 1) > 0


def _alone(precision: Any) -> World:
    from edgekd.training.world import World

    return World.alone(precision)


def _started(plan: Plan, name: str, out: Path) -> dict[str, Any]:
    """Processes of this machine, each with its share of the threads."""
    import torch

    from edgekd.pipeline.again import request_of
    from edgekd.progress import Echo
    from edgekd.worker import thread_env
    from edgekd.workers import call_all

    size = plan.values.train.devices
    request = {**request_of(plan, name), "step": name, "out": str(out), "size": size}
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    here |= thread_env(max(1, torch.get_num_threads() // size))
    if sys.platform == "linux":
        here["GLOO_SOCKET_IFNAME"] = "lo"
    with Echo(plan.progress) as echo:
        return call_all(
            "edgekd.pipeline.ranks:take_part",
            [{**request, "rank": rank} for rank in range(size)],
            [{**here, "LOCAL_RANK": str(rank)} for rank in range(size)],
            name,
            echo,
        )


def take_part(request: dict[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """One of several processes: join the others, and run the stage with them. Returns what the stage does, of the first."""
    from edgekd.pipeline.again import plan_of
    from edgekd.progress import Progress
    from edgekd.training.world import World

    rank, size, name = request["rank"], request["size"], request["step"]
    plan = plan_of(request, Progress(quiet=rank > 0, tell=None if rank else tell))
    world = World.joined(rank, size, size, plan.values.train.precision)
    if world.first:
        facts = _taken(plan, name, world, Path(request["out"]))
    else:
        with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch:
            facts = _taken(plan, name, world, Path(scratch))
    world.leave()
    return facts if rank == 0 else {}


def _taken(plan: Plan, name: str, world: World, out: Path) -> dict[str, Any]:
    """Run one stage as one of its processes, with what the store has of the steps before it."""
    from edgekd.pipeline.again import take

    take(plan, name, f"process {world.rank + 1} of {world.size}")
    try:
        return plan.runs[name](out, lambda: world)
    except OSError as error:
        if error.errno in FULL:
            raise StoreError(f"cannot write {error.filename or out}: {error.strerror}", hint="free space") from error
        raise


@contextmanager
def of_torchrun(plan: Plan) -> Iterator[None]:
    """While the block runs, the stages of the plan train in all processes of torchrun; then these are told that it is over."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    plan.world = _joined(plan)
    try:
        yield
    finally:
        if not plan.shared:  # else they were left within a stage, and end with it
            plan.world.agreed(lambda: None)
            plan.world.leave()


def follows() -> bool:
    """Whether torchrun started this process beside the one that runs the recipe."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("RANK", "0")) > 0


def follow(plan: Plan) -> None:
    """Take part in each stage that trains, until the first process has run the recipe."""
    world = _joined(plan)
    while (name := world.agreed(lambda: None)) is not None:
        with tempfile.TemporaryDirectory(prefix="edgekd-") as scratch:
            _taken(plan, name, world, Path(scratch))
    world.leave()


def _joined(plan: Plan) -> World:
    from edgekd.training.world import World

    rank, size, here = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return World.joined(rank, size, here, plan.values.train.precision)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
