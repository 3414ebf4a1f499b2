"""Schedules of a module's kernels, searched by measuring them here, and the database that keeps them.

    database_workload.json        the kernels, one JSON text a line
    database_tuning_record.json   what was measured: [number of the kernel, [schedule, seconds, target, arguments]], a line each
    tuning.json                   {"trials", "seconds"}: what the search of these schedules took

Each trial is written as soon as it was measured, so that a search which was killed goes on where it was. The search is TVM's
MetaSchedule: schedules drawn from a space, mutated, ranked by a learned cost model, and the best of each round built and timed
(relax_measuring.py). Source: Shao et al. 2022, arXiv 2205.13603. Schedules fit the shape of a kernel, not the values of its
weights: those of a float student serve it however it was trained; in an int8 program the scales are part of most kernels.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekd.compilers.relax_measuring import builder, builders, only_own_instructions, runner
from edgekd.compilers.relax_module import said
from edgekd.compilers.relax_module import scheduled as applied
from edgekd.errors import EdgekdError, UserError
from edgekd.json_file import read_json, write_json
from edgekd.store import write_whole

__all__ = ["FILES", "merged", "scheduled", "tune"]

WORKLOADS, RECORDS, ABOUT = "database_workload.json", "database_tuning_record.json", "tuning.json"
FILES = (WORKLOADS, RECORDS, ABOUT)
NEEDED = ("cloudpickle", "psutil", "xgboost")
ROUND = 32  # trials that are measured together at most
POPULATION = 512  # schedules that a round is bred from, and how many for each that it measures
BRED = 8
LEARNED = 100  # trials before which TVM's cost model says nothing
SEED = 0


def scheduled(module: Any, target: Any, folder: str | None) -> tuple[Any, dict[str, Any]]:
    """The fused module with the best schedules of the database in `folder`, and what their search took."""
    if not folder:
        return module, {"trials": 0, "seconds": 0.0}
    place = Path(folder)
    for name in (WORKLOADS, RECORDS):
        if not (place / name).is_file():
            hint = "name a folder with a database of TVM's MetaSchedule"
            raise UserError(f"{place} is no tuning database: it has no {name}", hint=hint)
    try:
        return applied(module, target, _database(place)), _took(place)
    except Exception as error:
        raise EdgekdError(f"{place}: tvm cannot use this tuning database: {said(error)}") from None


def tune(
    module: Any,
    target: Any,
    compiler: str,
    trials: int,
    work: Path,
    out: Path,
    tell: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Measure until the module's kernels have `trials` in the database in `work`; write the best of each into `out`.

    `work` may hold other modules' trials: those of the same kernels count, since they are used. `compiler` links candidates. Gives
    {"trials", "seconds", "kernels"}. Raises UserError where a package is missing, EdgekdError where no candidate could be timed.
    """
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"tuning needs {', '.join(absent)}", hint="pip install 'edgekd[tvm]'")
    from tvm.s_tir import meta_schedule as ms

    mend(work)
    tasks = ms.relax_integration.extract_tasks(module, target)
    database = _database(work)
    kernels = [database.commit_workload(task.dispatched[0]) for task in tasks]
    done = sum(
        any(record.workload.same_as(kernel) for kernel in kernels) for record in database.get_all_tuning_records()
    )
    before, started = _took(work), time.perf_counter()

    def keep(measured: int) -> None:
        spent = {"trials": before["trials"] + measured, "seconds": before["seconds"] + time.perf_counter() - started}
        write_whole(work / ABOUT, json.dumps(spent).encode())
        tell({"done": done + measured, "total": trials})

    tell({"done": min(done, trials), "total": trials})
    why_not = _search(tasks, compiler, trials - done, database, keep) if tasks and done < trials else ""
    best = [record for kernel in kernels for record in database.get_top_k(kernel, 1)]
    if not best and tasks:
        message = f"none of {trials} trials could be measured{f': {why_not}' if why_not else ''}"
        raise EdgekdError(message, hint="the machine may be too busy: more trials, later")
    chosen = _database(out)
    for record in best:
        kernel = chosen.commit_workload(record.workload.mod)
        parts = (record.trace, kernel, record.run_secs, record.target, record.args_info)
        chosen.commit_tuning_record(ms.database.TuningRecord(*parts))
    write_json(out / ABOUT, _took(work))
    return {**_took(work), "kernels": len(best)}


def _search(tasks: Any, compiler: str, trials: int, database: Any, keep: Callable[[int], None]) -> str:
    """Measure so many trials of all kernels, the more of one the more time it takes in all; what was the first error, if any."""
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    errors: list[str] = []

    @derived_object
    class Kept(ms.measure_callback.PyMeasureCallback):  # type: ignore[misc]  # without types
        """Tells of each round once it is in the database."""

        measured = 0

        def apply(self, scheduler: Any, task: int, candidates: Any, builds: Any, runs: Any) -> None:
            errors.extend(str(one.error_msg).strip().splitlines()[-1] for one in (*builds, *runs) if one.error_msg)
            self.measured += len(runs)
            keep(self.measured)

    only_own_instructions()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = max(1, min(ROUND, trials // len(tasks)))  # every kernel gets a round, and then those that take the most time
    drawn = min(POPULATION, BRED * each)
    strategy = ms.search_strategy.EvolutionarySearch(population_size=drawn, init_min_unmeasured=min(50, drawn // 2))
    with tempfile.TemporaryDirectory() as scratch:
        contexts, weights = ms.relax_integration.extracted_tasks_to_tune_contexts(
            tasks, work_dir=scratch, strategy=strategy, num_threads=cores, seed=SEED
        )
        pools = [builders(cores)]
        try:
            timer = runner()
            pools.append(timer.pool)
            ms.tune_tasks(
                tasks=contexts,
                task_weights=weights,
                work_dir=scratch,
                max_trials_global=trials,
                num_trials_per_iter=each,
                builder=builder(pools[0], compiler, Path(scratch)),
                runner=timer,
                database=database,
                cost_model="xgb" if trials > LEARNED else "random",
                measure_callbacks=[*ms.MeasureCallback.create("default"), Kept()],
            )
        finally:
            for pool in pools:
                pool.shutdown()
    return errors[0] if errors else ""


def _database(folder: Path) -> Any:
    from tvm.s_tir import meta_schedule as ms

    return ms.database.JSONDatabase(work_dir=str(folder))


def _took(folder: Path) -> dict[str, Any]:
    """What the search of a database took, as far as it is known."""
    found: Mapping[str, Any] = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    return {"trials": int(found.get("trials", 0)), "seconds": float(found.get("seconds", 0.0))}


def mend(folder: Path) -> None:
    """Cut off the line that a killed search was writing."""
    for name in (WORKLOADS, RECORDS):
        file = folder / name
        if file.is_file() and (held := file.read_bytes()) and not held.endswith(b"\n"):
            write_whole(file, held[: held.rfind(b"\n") + 1])


def merged(folders: Mapping[str, Path], out: Path) -> None:
    """One database of several, each kernel with the records of all; for a recipe to name, since it is found by kernel."""
    kernels: list[str] = []
    records: dict[str, None] = {}
    took: Mapping[str, Any] = {"trials": 0, "seconds": 0.0}
    for folder in folders.values():
        own = (folder / WORKLOADS).read_text("utf-8").splitlines()
        kernels += [line for line in own if line not in kernels]
        for line in (folder / RECORDS).read_text("utf-8").splitlines():
            number, record = json.loads(line)
            records[json.dumps([kernels.index(own[number]), record], separators=(",", ":"))] = None
        took = max(took, _took(folder), key=lambda one: float(one["seconds"]))  # all were made in one search
    write_whole(out / WORKLOADS, "".join(f"{line}\n" for line in kernels).encode())
    write_whole(out / RECORDS, "".join(f"{line}\n" for line in records).encode())
    write_json(out / ABOUT, took)
