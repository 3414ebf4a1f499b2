"""The step that tunes: an engine's kernels searched by measuring them on this machine, where the recipe asks for trials.

What is measured goes into a folder of the store that all programs of a backend on a machine share, since they share kernels: a
search that was killed goes on, one of a student trained anew finds what it needs. Where the recipe names a folder to go on from,
those programs share one that name it too, which begins as a copy. The step's result is the best of them, as they were then;
compilation reads that, and edgekd.lock holds its digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest, worker
from edgekd.backend import open_backend
from edgekd.errors import EdgekdError
from edgekd.pipeline.step import Candidate, Step
from edgekd.reach import Local
from edgekd.store import write_whole
from edgekd.tuner import Tuner

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan

__all__ = ["Tuning", "add", "digests_of"]


@dataclass(frozen=True)
class Tuning:
    """Where a candidate's kernels come from: the step that measures them, or the folder that the recipe names, or neither."""

    step: str = ""
    given: Path | None = None

    def told(self, plan: Plan) -> dict[str, str]:
        """What `compile` is told of it with the target's facts."""
        folder = plan.entry(self.step).path if self.step else self.given
        return {"tuning": str(folder)} if folder else {}


def add(plan: Plan, candidate: Candidate, fields: Mapping[str, Any], code: Sequence[Path]) -> Tuning:
    """Plan the step, if the backend tunes, the recipe asks for trials, and the target is this machine.

    `fields` and `code`: what compilation depends on.
    """
    backend, trials = open_backend(candidate.backend), plan.values.targets.tune
    if not isinstance(backend, Tuner):
        return Tuning()
    given = plan.recipe.file(plan.values.targets.tuning) if plan.values.targets.tuning else None
    if not trials or candidate.target.unmeasured or not isinstance(candidate.target.reach, Local):
        return Tuning(given=given)
    program, name, versions = candidate.version.program, candidate.step("tune"), backend.versions()
    shared = {key: fields[key] for key in ("backend", "threads", "target", "machine") if key in fields}
    asked = {**fields, "trials": trials, "given": digest.of_folder(given) if given else {}}
    key = plan.key("tune", [program], asked, [], code, packages=versions)

    def make(out: Path) -> dict[str, Any]:
        work = plan.store.work(f"tuning-{digest.of_json([shared, versions, *([asked['given']] if given else [])])}")
        return _measured(plan, candidate, given, work, out)

    plan.add(name, Step(name, key, (program, "target"), make))
    return Tuning(step=name)


def digests_of(plan: Plan) -> dict[str, str]:
    """Digests of the databases that engines of the plan were compiled with."""
    steps = (candidate.step("tune") for candidate in plan.candidates)
    found = {name: plan.entry(name).digest for name in steps if name in plan.entries}
    folder = plan.values.targets.tuning
    return {**found, **({"tuning": digest.of_json(digest.of_folder(plan.recipe.file(folder)))} if folder else {})}


def _measured(plan: Plan, candidate: Candidate, given: Path | None, work: Path, out: Path) -> dict[str, Any]:
    from filelock import FileLock

    from edgekd.pipeline.engine_steps import source_of
    from edgekd.pipeline.engines import advancing_by, plugins

    backend, threads, trials = open_backend(candidate.backend), plan.values.targets.threads, plan.values.targets.tune
    if command := backend.missing():
        raise EdgekdError(f'the backend "{candidate.backend}" is not installed: {command}')
    with (
        source_of(plan, candidate) as source,
        FileLock(work / "lock"),
        plan.progress.task(candidate.step("tune"), trials) as task,
    ):
        for file in filter(Path.is_file, given.iterdir() if given else ()):
            if not (work / file.name).exists():
                write_whole(work / file.name, file.read_bytes())
        request = {
            "backend": candidate.backend,
            "program": str(source),
            "target": candidate.target.model_dump(mode="json"),
            "threads": threads,
            "trials": trials,
            "work": str(work),
            "out": str(out),
            "plugins": plugins(),
        }
        env = {**worker.thread_env(threads), **backend.variables()}
        return worker.call("tune", request, env=env, on_progress=advancing_by(task.advance))
