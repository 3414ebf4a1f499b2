"""A search's candidates on the machines of a Ray cluster: scored wherever a core is free, raced where the target's device is.

Each machine makes the plan again from the recipe, in the same folder as here, and reads the same store. A race asks for the whole
of a device, as in `edgekd.farm`, and holds the recipe's own student, so that what several devices of one name measured compares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from edgekd import __version__, farm
from edgekd.errors import EdgekdError, UserError
from edgekd.farm import Failure
from edgekd.progress import Progress
from edgekd.search.evolution import Candidate, scored

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from edgekd.latency.table import Kind, Measured
    from edgekd.search.similarity import Seen
    from edgekd.search.space import Arguments, Variants

Raced = tuple[list[dict["Kind", "Measured"]], dict[int, str]]
"""What `Variants.race` gives."""
SHARED = "--store and the recipe's folder must be where every machine of the cluster sees them, and the machines alike"


@final
@dataclass(frozen=True)
class Spread:
    """`scoring`, `racing`: how another machine makes the plan again; the first needs the same student, the other the same machine too.

    `before`: the step whose student is varied, `step`: that of the search. `device`: the target's name. `here` races in this
    process, for where no machine of the cluster has the device.
    """

    address: str
    scoring: Mapping[str, Any]
    racing: Mapping[str, Any]
    before: str
    step: str
    device: str
    here: Callable[[Sequence[Arguments], str], Raced]
    progress: Progress

    def score(
        self, drawn: Sequence[dict[str, Any]], seen: Seen, inputs: torch.Tensor, targets: torch.Tensor
    ) -> list[Candidate]:
        """Each candidate with its score, in order. Raises what a machine says is wrong, after all have ended."""
        ray = farm.joined(self.address)
        try:
            if ray.cluster_resources().get("CPU", 0) < 1:
                raise UserError("no machine of the cluster offers a core", hint="ray start --address=HEAD --num-cpus=4")
            asked = ray.put((seen, inputs, targets))
            job = ray.remote(_score).options(num_cpus=1)
            jobs = [job.remote(self.scoring, self.step, self.before, one, asked, __version__) for one in drawn]
            found = [farm.fetched(ray, one) for one in jobs]
        finally:
            ray.shutdown()
        return [_or_raise(one, f"{self.step}: score") for one in found]

    def race(self, plans: Sequence[Arguments], label: str) -> Raced:
        """What the plans' engines take, in as many races as there are devices, each beside the first plan. Raises as `score` does."""
        ray = farm.joined(self.address)
        try:
            devices = int(ray.cluster_resources().get(farm.PREFIX + self.device, 0))
            parts = _dealt(len(plans), devices)
            found = self._raced(ray, plans, parts, label) if devices else []
        finally:
            ray.shutdown()
        if not devices:
            self.progress.say(f"  {label}: no machine of the cluster has the device {self.device}: measured here")
            return self.here(plans, label)
        rows: list[dict[Kind, Measured]] = [{} for _ in plans]
        failed: dict[int, str] = {}
        for part, one in zip(parts, found, strict=True):
            raced, reasons = _or_raise(one, f"{self.step}: race on {self.device}")
            for place, index in enumerate(part):
                if index or part is parts[0]:
                    rows[index] = raced[place]
                    failed |= {index: reasons[place]} if place in reasons else {}
        return rows, failed

    def _raced(
        self, ray: ModuleType, plans: Sequence[Arguments], parts: Sequence[Sequence[int]], label: str
    ) -> list[Raced | Failure]:
        job = ray.remote(_race).options(**farm.options(self.device))
        given = [[dict(plans[index]) for index in part] for part in parts]
        jobs = [job.remote(self.racing, self.step, self.before, one, label, __version__) for one in given]
        with self.progress.task(f"{label}: race on {len(parts)} devices", total=len(jobs)) as task:
            waiting = list(jobs)
            while waiting:
                ended, waiting = ray.wait(waiting, num_returns=1, timeout=farm.LOOK_SECONDS)
                if not ended:
                    farm.all_there(ray, [self.device])
                task.advance(len(ended))
        return [farm.fetched(ray, one) for one in jobs]


def _dealt(plans: int, devices: int) -> list[list[int]]:
    """The numbers of the plans that each device races, the first one on all.

    >>> _dealt(6, 2), _dealt(2, 3), _dealt(1, 2)
    ([[0, 1, 3, 5], [0, 2, 4]], [[0, 1]], [[0]])
    """
    count = max(1, min(devices, plans - 1))
    return [[0, *range(1 + start, plans, count)] for start in range(count)]


def _or_raise(found: Any, what: str) -> Any:
    if isinstance(found, Failure):
        error = found.error(what)
        raise type(error)(error.message, hint="; ".join(filter(None, [error.hint, SHARED])))
    return found


def _score(
    request: Mapping[str, Any], step: str, before: str, arguments: dict[str, Any], asked: Any, version: str
) -> Candidate | Failure:
    """On a machine of the cluster: one candidate's score."""
    from edgekd.search.similarity import suits

    seen, inputs, targets = asked

    def work(made: Variants) -> Candidate:
        return scored(arguments, lambda given: suits(seen, lambda draw: made.make(given, draw), inputs, targets), made)

    return _there(request, step, before, version, work)


def _race(
    request: Mapping[str, Any], step: str, before: str, plans: Sequence[dict[str, Any]], label: str, version: str
) -> Raced | Failure:
    """On the machine that has the device: what the plans' engines take."""
    return _there(request, step, before, version, lambda made: made.race(plans, label))


def _there(
    request: Mapping[str, Any], step: str, before: str, version: str, work: Callable[[Variants], Any]
) -> Any | Failure:
    from edgekd.pipeline.again import plan_of, take
    from edgekd.pipeline.variants import variants

    if other := farm.other_version(version):
        return other
    with tempfile.TemporaryDirectory(prefix="edgekd-spread-") as scratch:
        try:
            plan = plan_of(request, Progress(quiet=True))
            take(plan, step, "a machine of the cluster")
            return work(variants(plan, before, step, Path(scratch)))
        except (EdgekdError, OSError) as error:
            return farm.failure(error, scratch)
