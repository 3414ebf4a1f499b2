"""The plan: every step of a recipe with its key, known before any work, so that it can be printed and checked.

    teacher, student ─ stages… ─ judge … ─ export … ─ place … ─ compile … ─ evaluate … ─ race

Nothing here imports torch: a plan whose every step is in the store never does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest, registry
from edgekd.backend import open_backend
from edgekd.errors import EdgekdError
from edgekd.pipeline import calibration as calibrations
from edgekd.pipeline import layer_times, layers, onnx_steps, ranks, tables, variants
from edgekd.pipeline.engine_steps import add_compile, add_evaluate, add_export, add_judges, add_race
from edgekd.pipeline.place_steps import add_placements
from edgekd.pipeline.sources import digests_of
from edgekd.pipeline.step import Candidate, Step, Version, key_of
from edgekd.target import Calibration, find_calibration, find_target

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from edgekd.pipeline.ranks import Run
    from edgekd.pipeline.roots import Roots
    from edgekd.progress import Progress
    from edgekd.recipe import Loaded
    from edgekd.stage import Stage
    from edgekd.store import Entry, Store
    from edgekd.student import Student
    from edgekd.target import Target
    from edgekd.training.world import World

HERE = Path(__file__).parent
PACKAGE = HERE.parent
VIEWS = [HERE / "context.py", *(PACKAGE / "training" / f"{name}.py" for name in ("mixing", "projection", "train"))]
"""The code of a view of the training data, and of what a teacher says of it."""
COMPILE_TIMEOUT = 1800.0  # seconds, for one engine
COMPRESS = ("prune", "puzzle")  # stages that make a float student smaller


class Plan:
    """Steps by name, in order; `entries` holds the results that are there. `ray`: the address of a cluster that works, if any."""

    def __init__(
        self, recipe: Loaded, store: Store, progress: Progress, compile_timeout: float = COMPILE_TIMEOUT, ray: str = ""
    ) -> None:
        self.recipe, self.store, self.progress = recipe, store, progress
        self.compile_timeout, self.ray = compile_timeout, ray
        self.values = recipe.values
        self.steps: dict[str, Step] = {}
        self.entries: dict[str, Entry] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.targets = [find_target(name, recipe.folder) for name in self.values.targets.names]
        self.digests = digests_of(recipe, store, lambda: self.roots.data)
        self.versions: list[Version] = []
        self.placed: list[Candidate] = []
        self.runs: dict[str, Run] = {}
        self.world: World | None = None  # the processes that torchrun started
        self.shared = ""  # the stage that they are in
        self._roots_and_stages()
        add_judges(self)
        for version in self.raced:
            add_export(self, version)
        add_placements(self)
        self.candidates = [
            Candidate(version, target, backend)
            for target in self.targets
            for backend in self.values.targets.backends or target.at_hand
            for version in self.raced
            if version.grid in ("", self.grid_of(backend, target))
        ] + self.placed
        for candidate in self.candidates:
            add_compile(self, candidate)
        for candidate in self.candidates:
            add_evaluate(self, candidate)
        for target in self.targets:
            if racing := self.racing(target):
                add_race(self, target, racing)
        for stage, name, before in zip(recipe.stages, self.trained, ["student", *self.trained], strict=False):
            if stage.controlled and not self.of_file:
                layers.add_cost(self, next(v for v in self.versions if v.name == name), before)

    @cached_property
    def roots(self) -> Roots:
        """What the recipe brings, imported when first needed."""
        from edgekd.pipeline.roots import Roots

        return Roots(self.recipe)

    @property
    def raced(self) -> list[Version]:
        """Versions that are compiled: the teacher and every trained student; one about to be distilled from scratch is not.

        Nor is a teacher of which only the outputs are had, nor a simulated version.
        """
        untrained = self.values.student.weights is None and len(self.recipe.stages) > 0
        left_out = {"student"} if untrained else set()
        return [v for v in self.versions if v.name not in left_out and not v.simulated and not v.black_box]

    def racing(self, target: Target) -> list[Candidate]:
        """The candidates that are timed against each other for a target: none where its device is not reached."""
        mine = [c for c in self.candidates if c.target == target and not c.compile_only]
        return [c for c in mine if target.times(c.backend)]

    @property
    def trained(self) -> list[str]:
        """Names of the stages' steps, in the order of the recipe."""
        return [version.name for version in self.told if version.name not in ("teacher", "student")]

    @property
    def told(self) -> list[Version]:
        """The versions one after another, as the ledger tells them: of those that were made for several grids, the first."""
        return [version for version in self.versions if version.grid in ("", self.grids[0])]

    @property
    def reference(self) -> Version:
        """The last float student before compression: what a drop of the metric is measured from."""
        students = [v for v in self.told if v.name != "teacher"]
        compressed = next((i for i, v in enumerate(students) if v.quantized or v.stage in COMPRESS), len(students))
        return students[max(compressed - 1, 0)]

    def entry(self, name: str) -> Entry:
        return self.entries[name]

    def student(self, name: str) -> Student:
        """The student (or the teacher, seen as one) that the step `name` made."""
        from edgekd.student import Student

        if self.of_file:
            return Student(self.entry(name).path, self._no_network)
        if name == "teacher":
            return self.roots.teacher_student(self.entry(name).path)
        folder = self.entry(name).path
        own = Student(folder, self._no_network).origin["arguments"]
        return Student(folder, lambda **instead: self.roots.student_with({**own, **instead}))

    @property
    def of_file(self) -> bool:
        """Whether the student came as an ONNX file."""
        return self.values.student.use == "onnx"

    @property
    def metric(self) -> str:
        """The name of the score; of an ONNX file it is known once the samples are."""
        return str(self.entry("samples").facts["metric"]) if self.of_file else self.values.data.metric

    def arrays(self, split: str) -> list[np.ndarray]:
        """The inputs of a split, [n, ...] for each input of the student."""
        return onnx_steps.arrays(self, split) if self.of_file else [self.roots.data().split(split)[0].numpy()]

    def fed(self, split: str) -> list[np.ndarray]:
        """The inputs of a split as engines take them: bytes, where their preprocessing is in the engine."""
        arrays = self.arrays(split)
        if self.values.targets.preprocess == "outside":
            return arrays
        from edgekd.in_engine import bytes_of
        from edgekd.processing import processing_of
        from edgekd.signature import Signature

        folder = self.entry("student").path
        about = Signature.read(folder)
        around = processing_of(self.values, {"preprocessing": about.preprocessing})
        return [bytes_of(arrays[0], about, around["preprocessing"])]

    def _no_network(self) -> nn.Module:
        raise EdgekdError("an ONNX file has no network for torch")

    def add(self, name: str, step: Step) -> str:
        self.steps[name] = step
        return name

    def key(
        self, kind: str, inputs: Iterable[str], fields: Any, reads: Iterable[str], code: Iterable[Path], **more: Any
    ) -> str:
        """Key of a step that depends on the steps `inputs` and, by digest, on what `reads` names."""
        digests = {name: self.digests[name] for name in reads if name in self.digests}
        keys = [self.steps[name].key for name in inputs]
        return key_of(kind, inputs=keys, fields=fields, reads={**digests, **more.pop("digests", {})}, code=code, **more)

    def _roots_and_stages(self) -> None:
        if self.of_file:
            onnx_steps.add_roots(self)
        else:
            self._roots()
        uses = [table["use"] for table in self.values.stage]
        before = "student"
        for index, (use, stage) in enumerate(zip(uses, self.recipe.stages, strict=True)):
            name = use if uses.count(use) == 1 else f"{use} {uses[: index + 1].count(use)}"
            grids = self.grids if "quantized" in stage.gives and "target" in stage.reads else self.grids[:1]
            for grid in grids:
                one, several = (name if grid == grids[0] else f"{name}, {grid}"), (grid if len(grids) > 1 else "")
                self._stage(one, use, stage, before, grid)
                self.versions.append(Version(one, use, stage.precision, is_program=self.of_file, grid=several))
            before = name

    def _roots(self) -> None:
        seed, code = self.values.seed, [HERE / "roots.py"]
        inputs: tuple[str, ...] = ()
        if (section := self.values.teacher) is not None:
            use, made = section.use, [*code, HERE / "teachers.py"]
            key = self.key("teacher", [], {"seed": section.drawn(seed), "use": use}, ["teacher", "data"], made)
            self.add("teacher", Step("teacher", key, ("teacher", "data"), self._make_teacher))
            self.versions.append(Version("teacher", "teacher", "float32", use == "onnx", not section.compiled))
            inputs = ("teacher",)
        key = self.key("student", inputs, {"seed": seed}, ["student", "data"], code)
        self.add("student", Step("student", key, ("student", "data", *inputs), self._make_student))
        self.versions.append(Version("student", "student", "float32"))

    def _make_teacher(self, out: Path) -> dict[str, Any]:
        return self.roots.make_teacher(out)

    def _make_student(self, out: Path) -> dict[str, Any]:
        teacher = self.roots.teacher(self.entry("teacher").path) if "teacher" in self.entries else None
        return self.roots.make_student(out, teacher)

    def _stage(self, name: str, use: str, stage: Stage, before: str, grid: str) -> None:
        with_teacher = "teacher" in stage.reads and "teacher" in self.steps
        calibration = find_calibration(stage.calibration, self.recipe.folder) if stage.calibration else None
        shown = self._calibration(name, calibration, before) if calibration else ""
        timed = [tables.step(self, name, before, stage.weighed)] if stage.priced else []
        timed += [layer_times.step(self, name, before, grid, stage.timed)] if stage.timed else []
        calibrated = shown or ("samples" if self.of_file else "")
        asked = [name for name, is_read in (("teacher", with_teacher), (calibrated, calibrated)) if is_read]
        inputs = (before, *asked, *(self.add(step.label, step) for step in timed))
        files = {f"{folder}/{n}": digest.of_source(registry.file_of(folder, n)) for _, folder, n in stage.names()}
        if calibration is not None:
            files["observer"] = digest.of_source(registry.file_of("observers", calibration.observer))
        multiple = self.channel_multiple
        if "target" in stage.reads:
            files["target"] = digest.of_json([multiple, grid])
        if stage.varied or stage.races:
            files["variants"] = variants.digest_of(self)
        reads = ["data", "metric"] if "data" in stage.reads or "calibration" in stage.reads else []
        fields = {"seed": self.values.seed, **asdict(stage)}  # type: ignore[call-overload]  # every stage is a dataclass
        if ways := ranks.ways(self.values.train, stage):
            fields["train"] = ways
        code = [registry.file_of("stages", use)]
        key = self.key(use, inputs, fields, reads, code, digests=files, packages=stage.packages)

        def run(out: Path, world: Callable[[], World]) -> dict[str, Any]:
            student = self.student(before)
            if self.of_file:
                return stage.run(student, onnx_steps.context(self, self.store.work(key), grid), out)
            from edgekd.pipeline.context import stage_context

            context = stage_context(
                self.roots,
                teacher=lambda: self.roots.teacher(self.entry("teacher").path),
                logits_key=lambda of: self.key("logits", ["teacher"], of, ["data"], VIEWS),
                calibration=calibration,
                inputs=lambda: calibrations.read(self.entry(shown).path),
                pricing=lambda: tables.pricing(self, name, before, self.store.work(key), stage.weighed),
                times=lambda: layer_times.times(self, name, before, grid, self.store.work(key)),
                variants=lambda: variants.variants(self, before, name, self.store.work(key)),
                race=partial(variants.race_edited, self, before, weighed=stage.weighed),
                part_key=lambda of: self.key(f"part of {use}", [before], of, ["data"], code, packages=stage.packages),
                store=self.store,
                work=self.store.work(key),
                progress=self.progress,
                channel_multiple=multiple,
                grid=grid,
                world=world(),
            )
            return stage.run(student, context, out)

        self.runs[name] = run
        reads = sorted(stage.reads - {"teacher", "calibration"})
        self.add(name, Step(name, key, (*inputs, *reads), lambda out: ranks.made(self, name, stage, out)))

    def _calibration(self, stage: str, recipe: Calibration, before: str) -> str:
        name, digests = calibrations.step_of(stage), calibrations.digests_of(recipe)
        key = self.key("calibration", [before], {}, ["data"], [HERE / "calibration.py"], digests=digests)
        self.calibrations[stage] = recipe
        self.add(name, calibrations.step(self, name, key, recipe, before))
        return name

    @property
    def channel_multiple(self) -> int:
        """What kept channels are multiples of: suits every target."""
        return math.lcm(*(target.channel_multiple for target in self.targets))

    @cached_property
    def grids(self) -> tuple[str, ...]:
        """The number grids that the targets' backends have kernels for, in alphabetical order: a quantized student for each."""
        named = ((b, t) for t in self.targets for b in self.values.targets.backends or t.at_hand)
        return tuple(sorted({self.grid_of(backend, target) for backend, target in named}))

    @staticmethod
    def grid_of(backend: str, target: Target) -> str:
        return open_backend(backend).grid(target.model_dump(mode="json"))
