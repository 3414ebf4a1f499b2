"""Checks spread over the machines of a Ray cluster, each device measured one at a time.

A machine that is a device, or reaches one, joins with a resource that bears the target's name and counts one:

    ray start --address=HEAD:6379 --resources='{"device:raspberry-pi-5": 1}'

A check asks for the whole of it, so Ray lets the next one wait; devices measure side by side. Bundles travel with the check
and are held to their digests where they arrive. edgekd is not sent: the machines have it, in the same version.
"""

from __future__ import annotations

import importlib
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import __version__
from edgekd.check.gate import Asked, Result, check
from edgekd.check.pair import find_bundle, open_side
from edgekd.errors import EdgekdError, UserError, nearest
from edgekd.progress import Progress

if TYPE_CHECKING:
    from types import ModuleType

PREFIX = "device:"
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Failure:
    """Why a check could not be made there, as its machine says."""

    message: str
    hint: str
    user: bool


def checked(address: str, asked: Sequence[Asked], progress: Progress) -> list[Result]:
    """The result of each check, made on a machine of the cluster at `address` that has its device.

    Raises UserError where Ray is not installed or not there, where no machine has a device, or for what a check's machine
    says is wrong with it; EdgekdError where a machine fails. All checks end before the first error is raised.
    """
    ray = _joined(address)
    try:
        names = [_device(one) for one in asked]
        _all_there(ray, names)
        job = ray.remote(_job)
        waiting = {}
        for number, (one, name) in enumerate(zip(asked, names, strict=True)):
            waiting[job.options(**options(name)).remote(one, *_packed(one), __version__)] = number
            progress.say(f"  {one.title}: waits for {name}")
        found: dict[int, Result | Failure] = {}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            number = waiting.pop(done)
            found[number] = _fetched(ray, done)
            progress.say(f"  {asked[number].title}: {len(found)} of {len(asked)} done, on {names[number]}")
    finally:
        ray.shutdown()  # and with it what has not ended
    return [_home(one, found[number]) for number, one in enumerate(asked)]


def options(name: str) -> dict[str, Any]:
    """What a job on a device asks Ray for: all of the device, and no second try."""
    return {"resources": {PREFIX + name: 1}, "num_cpus": 0, "max_retries": 0}


def _joined(address: str) -> ModuleType:
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("Ray is not installed", hint=f"pip install {shlex.quote('edgekd[ray]')}") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(
            f"no Ray cluster at {address}: {said}", hint="begin one: ray start --head --port=6379"
        ) from None
    return ray


def _device(asked: Asked) -> str:
    """What the cluster calls the device that measures: a target's name. Raises UserError if nothing says it."""
    name = (
        asked.device.name
        if asked.device
        else asked.target or open_side(asked.candidate, asked.target).target.get("name")
    )
    if not name:
        raise UserError(f"{asked.candidate} names no target", hint="compile the bundle again, or name one: --target")
    return str(name)


def _all_there(ray: ModuleType, names: Sequence[str]) -> None:
    """Raises UserError for a device that no machine of the cluster has: its checks would wait for ever."""
    there = sorted(key.removeprefix(PREFIX) for key in ray.cluster_resources() if key.startswith(PREFIX))
    for name in names:
        if name not in there:
            message = f"no machine of the cluster has the device {name}"
            joins = f"ray start --address=HEAD --resources='{{\"{PREFIX}{name}\": 1}}'"
            raise UserError(message, hint=f"{nearest(name, there)}; a machine that has it joins with: {joins}")


def _packed(asked: Asked) -> tuple[Files, Files]:
    """Candidate and baseline as they travel: a bundle by its files' paths, a stored report under its own name."""
    candidate = find_bundle(asked.candidate, asked.target)
    if asked.baseline.suffix == ".json":
        return _files(candidate), {asked.baseline.name: asked.baseline.read_bytes()}
    return _files(candidate), _files(
        find_bundle(asked.baseline, asked.target or open_side(asked.candidate, None).target.get("name"))
    )


def _files(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _job(asked: Asked, candidate: Files, baseline: Files, version: str) -> Result | Failure:
    """On the machine that has the device."""
    if version != __version__:
        return Failure(f"edgekd {__version__} is there, {version} here", "install the same version on both", True)
    with tempfile.TemporaryDirectory(prefix="edgekd-farm-") as scratch:
        sides = {"candidate": candidate, "baseline": baseline}
        for side, files in sides.items():
            for path, held in files.items():
                place = Path(scratch) / side / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(held)
        stored = asked.baseline.suffix == ".json"
        there = Path(scratch) / "baseline" / (asked.baseline.name if stored else "")
        try:
            return check(replace(asked, candidate=Path(scratch) / "candidate", baseline=there), Progress(quiet=True))
        except EdgekdError as error:
            return Failure(error.message.replace(scratch, ""), error.hint, isinstance(error, UserError))


def _fetched(ray: ModuleType, done: Any) -> Result | Failure:
    try:
        found: Result | Failure = ray.get(done)
    except ray.exceptions.RayError as error:
        said = str(error).strip().rpartition("\n")[2]
        return Failure(f"its machine failed: {said}", "look at that machine, then check again", False)
    return found


def _home(asked: Asked, found: Result | Failure) -> Result:
    """The result with this machine's paths. Raises what a failure says."""
    if isinstance(found, Failure):
        kind = UserError if found.user else EdgekdError
        raise kind(f"{asked.title}: {found.message}", hint=found.hint)
    side = replace(found.candidate, folder=find_bundle(asked.candidate, asked.target))
    return replace(found, asked=asked, candidate=side)
