"""Checks and races spread over the machines of a Ray cluster, each device measured one at a time.

A machine that is a device, or reaches one, joins with a resource that bears the target's name and counts one:

    ray start --address=HEAD:6379 --resources='{"device:raspberry-pi-5": 1}'

A check asks for the whole of it, so Ray lets the next one wait; devices measure side by side. Bundles travel with the check
and are held to their digests where they arrive. edgekd is not sent: the machines have it, in the same version.
"""

from __future__ import annotations

import importlib
import os
import shlex
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import __version__
from edgekd.check.gate import Asked, Result, check
from edgekd.check.pair import find_bundle, open_side
from edgekd.devices.link import check_path
from edgekd.errors import EdgekdError, UserError, nearest
from edgekd.progress import Progress

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

    from edgekd.sections import Recipe
    from edgekd.target import Target

PREFIX = "device:"
BEGIN = "begin one: ray start --head --port=6379"
LOOK = "look at that machine, then try again"
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 10.0  # how often it is looked whether the devices are still there
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Failure:
    """Why what was asked could not be done there, as its machine says."""

    message: str
    hint: str
    user: bool

    def error(self, what: str) -> EdgekdError:
        """The error of `what`, to be raised here."""
        return (UserError if self.user else EdgekdError)(f"{what}: {self.message}", hint=self.hint)


def checked(address: str, asked: Sequence[Asked], progress: Progress) -> list[Result]:
    """The result of each check, made on a machine of the cluster at `address` that has its device.

    Raises UserError where Ray is not installed or not there, where no machine has a device, or for what a check's machine
    says is wrong with it; EdgekdError where a machine fails. All checks end before the first error is raised.
    """
    ray = joined(address)
    try:
        names = [_device(one) for one in asked]
        all_there(ray, names)
        job = ray.remote(_job)
        waiting = {}
        for number, (one, name) in enumerate(zip(asked, names, strict=True)):
            waiting[job.options(**options(name)).remote(one, *_packed(one), __version__)] = number
            progress.say(f"  {one.title}: waits for {name}")
        found: dict[int, Result | Failure] = {}
        while waiting:
            ended, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK_SECONDS)
            if not ended:
                all_there(ray, [names[number] for number in waiting.values()])
            for done in ended:
                number = waiting.pop(done)
                found[number] = fetched(ray, done)
                progress.say(f"  {asked[number].title}: {len(found)} of {len(asked)} done, on {names[number]}")
    finally:
        ray.shutdown()  # and with it what has not ended
    return [_home(one, found[number]) for number, one in enumerate(asked)]


def raced(
    address: str,
    target: Target,
    engines: Mapping[str, Path],
    golden: Mapping[str, Path],
    inputs: Sequence[np.ndarray],
    values: Recipe,
    progress: Progress,
) -> tuple[dict[str, Any], bytes]:
    """The race of a recipe's engines on the machine of the cluster that has the target's device.

    Gives what `pipeline.measure.measure` gives, and the race.json that it writes. Raises as `checked` does.
    """
    ray = joined(address)
    try:
        all_there(ray, [target.name])
        progress.say(f"  race on {target.name}: waits for it")
        sent = {name: (_files(folder), golden[name].read_bytes()) for name, folder in engines.items()}
        job = ray.remote(_race).options(**options(target.name)).remote(sent, target, list(inputs), values, __version__)
        while not ray.wait([job], timeout=LOOK_SECONDS)[0]:
            all_there(ray, [target.name])
        found: tuple[dict[str, Any], bytes] | Failure = fetched(ray, job)
    finally:
        ray.shutdown()
    if isinstance(found, Failure):
        raise found.error(f"race on {target.name}")
    return found


def must_have(address: str, names: Sequence[str]) -> None:
    """Raises UserError for a device that no machine of the cluster has."""
    ray = joined(address)
    try:
        all_there(ray, names)
    finally:
        ray.shutdown()


def options(name: str) -> dict[str, Any]:
    """What a job on a device asks Ray for: all of the device, and no second try."""
    return {"resources": {PREFIX + name: 1}, "num_cpus": 0, "max_retries": 0}


def joined(address: str) -> ModuleType:
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("Ray is not installed", hint=f"pip install {shlex.quote('edgekd[ray]')}") from None
    if ray.is_initialized():
        raise UserError("this process is in a Ray cluster already", hint="leave it first: ray.shutdown()")
    _listens(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"no Ray cluster at {address}: {said}", hint=BEGIN) from None
    return ray


def _listens(address: str) -> None:
    """Raises UserError if nobody listens at HOST:PORT, where Ray itself would try for minutes. "auto" and the like pass."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"no Ray cluster at {address}: {said}", hint=BEGIN) from None


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


def all_there(ray: ModuleType, names: Sequence[str]) -> None:
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
    if other := other_version(version):
        return other
    with tempfile.TemporaryDirectory(prefix="edgekd-farm-") as scratch:
        sides = {"candidate": candidate, "baseline": baseline}
        stored = asked.baseline.suffix == ".json"
        there = Path(scratch) / "baseline" / (asked.baseline.name if stored else "")
        try:
            for side, files in sides.items():
                _write(Path(scratch) / side, files)
            return check(replace(asked, candidate=Path(scratch) / "candidate", baseline=there), Progress(quiet=True))
        except (EdgekdError, OSError) as error:
            return failure(error, scratch)


def _race(
    sent: Mapping[str, tuple[Files, bytes]], target: Target, inputs: Sequence[np.ndarray], values: Recipe, version: str
) -> tuple[dict[str, Any], bytes] | Failure:
    """On the machine that has the device, as `raced` gives it."""
    from edgekd.pipeline.measure import measure

    if other := other_version(version):
        return other
    with tempfile.TemporaryDirectory(prefix="edgekd-farm-") as scratch:
        out, folders, golden = Path(scratch), {}, {}
        try:
            for number, (name, (files, held)) in enumerate(sent.items()):
                folders[name], golden[name] = out / f"{number}", out / f"{number}.npz"
                _write(folders[name], files)
                golden[name].write_bytes(held)
            found = measure(folders, golden, out, values, inputs, Progress(quiet=True), target, out)
            return found, (out / "race.json").read_bytes()
        except (EdgekdError, OSError) as error:
            return failure(error, scratch)


def other_version(version: str) -> Failure | None:
    """What is wrong where the machine that asks has this version."""
    if version == __version__:
        return None
    return Failure(f"edgekd {__version__} is there, {version} here", "install the same version on both", True)


def _write(folder: Path, files: Files) -> None:
    for path, held in files.items():
        place = folder / check_path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(held)


def failure(error: EdgekdError | OSError, scratch: str) -> Failure:
    if isinstance(error, OSError):
        return Failure(f"its machine failed: {error}", LOOK, False)
    return Failure(error.message.replace(scratch, ""), error.hint, isinstance(error, UserError))


def fetched(ray: ModuleType, done: Any) -> Any:
    """What a job gave, or the failure of its machine."""
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        said = str(error).strip().rpartition("\n")[2]
        return Failure(f"its machine failed: {said}", LOOK, False)


def _home(asked: Asked, found: Result | Failure) -> Result:
    """The result with this machine's paths. Raises what a failure says."""
    if isinstance(found, Failure):
        raise found.error(asked.title)
    side = replace(found.candidate, folder=find_bundle(asked.candidate, asked.target))
    return replace(found, asked=asked, candidate=side)
