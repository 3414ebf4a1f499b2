"""The bench of a placement search: engines of one network, compiled with pairs around some operators, profiled and raced."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from edgekd import digest, worker
from edgekd.backend import open_backend, read_engine
from edgekd.cuts import FLOAT, Costs, Keep, Link
from edgekd.errors import EdgekdError, StoreError
from edgekd.latency.race import race
from edgekd.metric import sqnr
from edgekd.pipeline.engines import plugins
from edgekd.placement import Bench, Compare

if TYPE_CHECKING:
    from edgekd.backend import Array
    from edgekd.latency.statistics import Ratio
    from edgekd.quant.sites import Site
    from edgekd.sections import MeasureSection

CALLS = 100  # of a profile; as many go before it
JUDGED = 16
"""Validation samples that each placement is judged on."""
GIVEN: Keep = frozenset({"the program as it came"})
"""The placement that a quantized program brings: no site is called so."""


class Programs(ABC):
    """The programs of one network's placements.

    `given`: the placement that it came with, `FLOAT` of a float file; `covered`: whether that is all sites in integers.
    `named`: whether a profile of an engine names nodes of its program.
    """

    sites: Sequence[Site]
    given: Keep = FLOAT
    covered: bool = False
    named: ClassVar[bool] = True

    @abstractmethod
    def links(self) -> list[Link]:
        """What passes between the sites."""

    @abstractmethod
    def write(self, keep: Keep, out: Path) -> None:
        """The program's files, for a backend to compile."""

    def finish(self, keep: Keep, out: Path) -> None:
        """What is judged by, beside the files that `write` wrote."""

    @abstractmethod
    def outputs(self, keep: Keep) -> list[Array]:
        """What it gives for the samples that quality is judged on: an array [samples, …] for each output."""

    @abstractmethod
    def costs(self, keep: Keep, engine: Path, took: Mapping[str, float]) -> Costs | None:
        """Costs of sites and conversions. `took`: seconds by the engine's names of its nodes; None where those are not known."""


@final
@dataclass
class Engines(Bench):
    """`folder` keeps the engines, also through a kill."""

    programs: Programs
    backend: str
    target: Mapping[str, Any]
    threads: int
    timing: MeasureSection
    seed: int
    timeout: float
    folder: Path
    failed: dict[Keep, str] = field(default_factory=dict)
    _costs: dict[Keep, Costs | None] = field(default_factory=dict)
    _expected: list[Array] = field(default_factory=list)

    def engines(self, keeps: Sequence[Keep]) -> dict[Keep, Path]:
        """The engines that could be made, and why not in `failed`. One worker compiles what is not there: most of it is imports."""
        new = [keep for keep in dict.fromkeys(keeps) if keep not in self.failed and not self._engine(keep).is_dir()]
        for keep in new:
            self._write(keep)
        try:
            self._compile(new)
        except EdgekdError as crash:  # which of several ended the worker is only known of each alone
            if len(new) == 1:
                self.failed[new[0]] = crash.message.partition("\n")[0]
            for keep in [keep for keep in new if keep not in self.failed and not self._engine(keep).is_dir()]:
                self._write(keep)
                try:
                    self._compile([keep])
                except EdgekdError as error:
                    self.failed[keep] = error.message.partition("\n")[0]
        return {keep: self._engine(keep) for keep in keeps if keep not in self.failed}

    def _home(self, keep: Keep) -> Path:
        return self.folder / digest.of_json(sorted(keep))[:16]

    def _engine(self, keep: Keep) -> Path:
        return self._home(keep) / "engine"

    def _write(self, keep: Keep) -> None:
        home = self._home(keep)
        shutil.rmtree(home, ignore_errors=True)
        try:
            for part in ("program", "making"):
                (home / part).mkdir(parents=True)
            self.programs.write(keep, home / "program")
        except OSError as error:
            raise StoreError(f"cannot write {home}: {error.strerror}", hint="free space, or --store FOLDER") from error

    def _compile(self, keeps: Sequence[Keep]) -> None:
        """Raises EdgekdError where the worker ended early: each engine that was made by then is there."""
        if not keeps:
            return
        each = [
            {"program": str(self._home(keep) / "program"), "out": str(self._home(keep) / "making")} for keep in keeps
        ]
        request = {"backend": self.backend, "target": dict(self.target), "threads": self.threads, "each": each}
        request["plugins"] = plugins()

        def made(progress: Mapping[str, Any]) -> None:
            if "made" in progress:
                keep = keeps[progress["made"]]
                (self._home(keep) / "making").rename(self._engine(keep))

        env = {**worker.thread_env(self.threads), **open_backend(self.backend).variables()}
        answer = worker.call("compile each", request, env=env, timeout=len(keeps) * self.timeout, on_progress=made)
        self.failed.update({keep: why for keep, why in zip(keeps, answer["failed"], strict=True) if why})

    def costs(self, keep: Keep) -> Costs | None:
        if keep not in self._costs:
            self._costs[keep] = self._profiled(keep)
        return self._costs[keep]

    def _profiled(self, keep: Keep) -> Costs | None:
        engine = self.engines([keep]).get(keep) if self.programs.named else None
        if engine is None:
            return None
        request = {"engine": str(engine), "inputs": None, "calls": CALLS, "plugins": plugins()}
        try:
            answer = worker.call("profile", request, env=worker.thread_env(self.threads), timeout=self.timeout)
        except EdgekdError:
            return None
        rows = answer["operators"] or ()
        if not all("each" in row for row in rows):
            return None  # sums over nodes that cannot be told apart
        took: dict[str, float] = {}
        for name, seconds in (one for row in rows for one in row["each"].items()):
            took[name] = took.get(name, 0.0) + seconds
        return self.programs.costs(keep, read_engine(engine, self.backend)[1], took) if took else None

    def race(self, keeps: Sequence[Keep], screening: bool = False) -> tuple[Mapping[Keep, float], Compare]:
        engines = self.engines(keeps)
        if FLOAT not in engines:
            raise EdgekdError(f"{self.backend}: {self.failed[FLOAT]}")
        names = {keep: f"placement {index}" for index, keep in enumerate(engines)}
        found = race(
            {names[keep]: folder for keep, folder in engines.items()},
            processes=1 if screening else self.timing.processes,
            seconds=self.timing.seconds / (4 if screening else 2),
            cold_starts=0,
            threads=self.threads,
            seed=self.seed,
            plugins=plugins(),
            wait=self.timing.wait,
        )
        medians = {keep: found.runners[name].latency(self.seed).median for keep, name in names.items()}

        def compare(a: Keep, b: Keep) -> Ratio:
            return found.ratio(names[a], names[b])

        return medians, compare

    def sqnr(self, keep: Keep) -> float:
        self._expected = self._expected or self.programs.outputs(FLOAT)
        try:
            found = self.programs.outputs(keep)
        except Exception:  # whatever the runtime raises: it cannot run this placement
            return -np.inf
        return min((sqnr(ours, theirs) for ours, theirs in zip(found, self._expected, strict=True)), default=np.inf)
