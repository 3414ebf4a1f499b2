"""A student at other widths, compiled and raced: what a latency table and a plan under a budget are measured with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest
from edgekd.errors import EdgekdError, UserError
from edgekd.latency.design import Space, Widths, allowed
from edgekd.latency.race import Race, race
from edgekd.latency.table import Kind, engine_name
from edgekd.pipeline.engines import compile_engine, plugins, write_program
from edgekd.pipeline.measure import advancing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekd.pipeline.plan import Plan
    from edgekd.progress import Progress
    from edgekd.pruning.groups import Group
    from edgekd.quant.precision import Precision
    from edgekd.sections import MeasureSection
    from edgekd.student import Student
    from edgekd.target import Target


def space_of(groups: Sequence[Group], multiple: int) -> Space:
    """The widths that each group may have on this target, and which groups meet in a layer."""
    made: dict[str, set[str]] = {}
    read: dict[str, set[str]] = {}
    for group in groups:
        for member in group.producers:
            made.setdefault(member.name, set()).add(group.name)
        for member in group.consumers:
            read.setdefault(member.name, set()).add(group.name)
    names = [group.name for group in groups]
    found = {
        (min(a, b, key=names.index), max(a, b, key=names.index))
        for layer in made.keys() & read.keys()
        for a in made[layer]
        for b in read[layer]
        if a != b
    }
    order = sorted(found, key=lambda pair: (names.index(pair[0]), names.index(pair[1])))
    return Space({group.name: allowed(group.channels, group.step(multiple)) for group in groups}, tuple(order))


def narrowed(student: Student, groups: Sequence[Group], widths: Mapping[str, int]) -> nn.Module:
    """The student with the first `widths` channels of each group, its weights as the factory draws them: time does not ask."""
    from edgekd.pruning.edits import closed, replay
    from edgekd.pruning.groups import cut

    network = student.unloaded().eval()
    narrow = cut(groups, {group: list(range(width)) for group, width in widths.items()})
    replay(network, {"edit": "prune", "opened": closed(network), **narrow})
    return network


def write_narrowed(
    student: Student, groups: Sequence[Group], widths: Mapping[str, int], precision: str, grid: str, out: Path
) -> None:
    """Write the program of the narrowed student; int8 with ranges from noise."""
    write_timed(narrowed(student, groups, widths), student, precision, grid, out)


def write_timed(
    network: nn.Module, student: Student, precision: str, grid: str, out: Path, mixed: Precision | None = None
) -> None:
    """Write the program of a network that is only timed, in eval mode, with the ports of `student`; int8 with ranges from noise.

    `mixed`: what single layers of an int8 program have instead.
    """
    from edgekd.quant import weight_only
    from edgekd.quant.grid import named
    from edgekd.quant.precision import Precision
    from edgekd.quant.pt2e import calibrate, convert, prepare

    if precision == "int8":
        mixed = mixed or Precision()
        prepared = prepare(network, student.example(2), named(grid), "minmax", qat=False, precision=mixed)
        calibrate(prepared, [noise(student)])
        network = weight_only.narrowed(convert(prepared), mixed)
    write_program(network, student.example(), student.signature, precision, grid, out)


def noise(student: Student) -> torch.Tensor:
    """Two inputs to set ranges with: Gaussian; of integers, which may be words, 0 and 1, which every vocabulary has."""
    import torch

    example = student.example(2)
    drawn = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(example.dtype) if example.is_floating_point() else (drawn > -1).to(example.dtype)


@dataclass(frozen=True)
class Bench:
    """Compiles engines once each into `work`, which survives a kill, and races them. `program(widths, precision, out)` writes one.

    `widths` are of groups of channels, or any other plain values that say which student it is.
    """

    program: Callable[[dict[str, Any], str, Path], None]
    target: Mapping[str, Any]
    threads: int
    measure: MeasureSection
    work: Path
    progress: Progress
    timeout: float

    @classmethod
    def of(cls, plan: Plan, target: Target, work: Path, program: Callable[[dict[str, Any], str, Path], None]) -> Bench:
        """With the threads, the measuring and the time limit of a plan."""
        facts, values = target.model_dump(mode="json"), plan.values
        return cls(program, facts, values.targets.threads, values.measure, work, plan.progress, plan.compile_timeout)

    def engine(self, widths: dict[str, Any], kind: Kind) -> Path:
        """The engine's folder, made now or before a kill. Raises EdgekdError if it cannot be compiled."""
        program = self._made(["program", widths, kind.precision], lambda out: self.program(widths, kind.precision, out))

        def compiled(out: Path) -> None:
            compile_engine(program, out, kind.backend, self.target, self.threads, self.timeout)

        return self._made(["engine", widths, kind.name], compiled)

    def _made(self, of: list[Any], make: Callable[[Path], object]) -> Path:
        """A folder in `work`, there whole or not at all."""
        folder = self.work / digest.of_json(of)
        if not folder.is_dir():
            scratch = Path(tempfile.mkdtemp(prefix="making-", dir=self.work))
            try:
                make(scratch)
                os.replace(scratch, folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def race(
        self, plans: Sequence[Widths], kinds: Sequence[Kind], label: str, cold_starts: int = 0
    ) -> tuple[Race, dict[str, str]]:
        """All plans of all kinds in one race, and why kinds are not in it: the first plan decides, being the whole student.

        Raises UserError, with the reasons, where no kind can be compiled.
        """
        engines, failed = {}, {}
        with self.progress.task(f"compile {label}", total=len(plans) * len(kinds)) as task:
            for kind in kinds:
                for index, plan in enumerate(plans):
                    try:
                        engines[engine_name(index, kind)] = self.engine(plan, kind)
                    except UserError:
                        raise
                    except EdgekdError as error:
                        if index:
                            raise
                        failed[kind.name] = error.message
                        break
                    task.advance(1, kind.name)
        if not engines:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise UserError(
                f"the student's latency cannot be measured: {reasons}", hint="name a backend that can compile it"
            )
        return self.measured(engines, label, cold_starts), failed

    def measured(self, engines: Mapping[str, Path], label: str, cold_starts: int = 0) -> Race:
        """A race of engines by name, as long as the recipe says; each in so many new processes, for what it holds in memory.

        Its finished processes are kept in `work`: after a kill the race goes on with the others.
        """
        kept = self.work / digest.of_json(["race", {name: path.name for name, path in engines.items()}])
        kept.mkdir(exist_ok=True)
        with self.progress.task(f"measure {label}", total=1.0) as task:
            return race(
                engines,
                processes=self.measure.processes,
                seconds=self.measure.seconds,
                wait=self.measure.wait,
                cold_starts=cold_starts,
                threads=self.threads,
                plugins=plugins(),
                on_progress=advancing(task),
                kept=kept,
            )
