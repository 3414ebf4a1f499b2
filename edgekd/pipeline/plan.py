"""The plan: every step of a recipe with its key, known before any work, so that it can be printed and checked.

    teacher, student ─ stages… ─ judge … ─ export … ─ compile … ─ evaluate … ─ race

Nothing here imports torch: a plan whose every step is in the store never does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest, registry
from edgekd.backend import open_backend
from edgekd.errors import EdgekdError
from edgekd.pipeline.sources import digests_of
from edgekd.pipeline.step import Candidate, Step, Version, judged, key_of
from edgekd.target import Target, find_calibration, find_target

if TYPE_CHECKING:
    from edgekd.pipeline.roots import Roots
    from edgekd.progress import Progress
    from edgekd.recipe import Loaded
    from edgekd.stage import Stage
    from edgekd.store import Entry, Store
    from edgekd.student import Student

HERE = Path(__file__).parent
PACKAGE = HERE.parent
TORCH = ("torch", "torchao", "torch-pruning")
EXPORT = ("torch", "torchao", "onnxscript", "onnx")


class Plan:
    """Steps by name, in order; `entries` holds the results that are there, filled as the plan is run."""

    def __init__(self, recipe: Loaded, store: Store, progress: Progress) -> None:
        self.recipe, self.store, self.progress = recipe, store, progress
        self.values = recipe.values
        self.steps: dict[str, Step] = {}
        self.entries: dict[str, Entry] = {}
        self.targets = [find_target(name, recipe.folder) for name in self.values.targets.names]
        self.digests = digests_of(recipe, store, lambda: self.roots.data)
        self.versions: list[Version] = []
        self._roots_and_stages()
        self._judges()
        self.candidates = [
            Candidate(version, target, backend)
            for target in self.targets
            for backend in self.values.targets.backends or target.backends
            for version in self.raced
        ]
        for version in self.raced:
            self._export(version)
        for candidate in self.candidates:
            self._compile(candidate)
        for candidate in self.candidates:
            self._evaluate(candidate)
        for target in self.targets:
            self.add_race(target, [c for c in self.candidates if c.target == target])

    @cached_property
    def roots(self) -> Roots:
        """What the recipe brings, imported when first needed."""
        from edgekd.pipeline.roots import Roots

        return Roots(self.recipe)

    @property
    def raced(self) -> list[Version]:
        """Versions that are compiled: the teacher and every trained student; neither one about to be distilled from scratch nor
        a simulated one.
        """
        untrained = self.values.student.weights is None and len(self.recipe.stages) > 0
        return [v for v in self.versions if not (v.simulated or (v.name == "student" and untrained))]

    @property
    def reference(self) -> Version:
        """The last float student before compression: what a drop of the metric is measured from."""
        students = [v for v in self.versions if v.name != "teacher"]
        compressed = next((i for i, v in enumerate(students) if v.stage in ("prune", "quantize")), len(students))
        return students[max(compressed - 1, 0)]

    def entry(self, name: str) -> Entry:
        return self.entries[name]

    def student(self, name: str) -> Student:
        """The student (or the teacher, seen as one) that the step `name` made."""
        from edgekd.student import Student

        if name == "teacher":
            return self.roots.teacher_student(self.entry(name).path)
        return Student(self.entry(name).path, self.roots.student_factory)

    def _add(self, name: str, step: Step) -> None:
        self.steps[name] = step

    def _key(
        self, kind: str, inputs: Iterable[str], fields: Any, reads: Iterable[str], code: Iterable[Path], **more: Any
    ) -> str:
        """Key of a step that depends on the steps `inputs` and, by digest, on what `reads` names."""
        digests = {name: self.digests[name] for name in reads if name in self.digests}
        keys = [self.steps[name].key for name in inputs]
        return key_of(kind, inputs=keys, fields=fields, reads={**digests, **more.pop("digests", {})}, code=code, **more)

    def _roots_and_stages(self) -> None:
        seed, code = self.values.seed, [HERE / "roots.py"]
        inputs: tuple[str, ...] = ()
        if self.values.teacher is not None:
            use = self.values.teacher.use
            key = self._key("teacher", [], {"seed": seed, "use": use}, ["teacher", "data"], code)
            self._add("teacher", Step("teacher", key, ("teacher", "data"), self._make_teacher))
            if use == "module":
                self.versions.append(Version("teacher", "teacher", "float32"))
            inputs = ("teacher",)
        key = self._key("student", inputs, {"seed": seed}, ["student", "data"], code)
        self._add("student", Step("student", key, ("student", "data", *inputs), self._make_student))
        self.versions.append(Version("student", "student", "float32"))
        uses = [table["use"] for table in self.values.stage]
        before = "student"
        for index, (use, stage) in enumerate(zip(uses, self.recipe.stages, strict=True)):
            name = use if uses.count(use) == 1 else f"{use} {uses[: index + 1].count(use)}"
            self._stage(name, use, stage, before)
            self.versions.append(Version(name, use, stage.precision))
            before = name

    def _make_teacher(self, out: Path) -> dict[str, Any]:
        return self.roots.make_teacher(out)

    def _make_student(self, out: Path) -> dict[str, Any]:
        teacher = self.roots.teacher(self.entry("teacher").path) if "teacher" in self.entries else None
        return self.roots.make_student(out, teacher)

    def _stage(self, name: str, use: str, stage: Stage, before: str) -> None:
        with_teacher = "teacher" in stage.reads and "teacher" in self.steps
        inputs = (before, *(("teacher",) if with_teacher else ()))
        calibration = find_calibration(stage.calibration, self.recipe.folder) if stage.calibration else None
        files = {f"{folder}/{n}": digest.of_source(registry.file_of(folder, n)) for _, folder, n in stage.names()}
        if calibration is not None:
            files["calibration"] = digest.of_json(calibration.model_dump(exclude={"name", "notes"}))
            files["source"] = digest.of_source(registry.file_of("sources", calibration.source))
            files["observer"] = digest.of_source(registry.file_of("observers", calibration.observer))
        multiple = max(target.channel_multiple for target in self.targets)
        grid = self._grid()
        if "target" in stage.reads:
            files["target"] = digest.of_json([multiple, grid])
        reads = ["data", "metric"] if "data" in stage.reads or "calibration" in stage.reads else []
        fields = {"seed": self.values.seed, **asdict(stage)}  # type: ignore[call-overload]  # every stage is a dataclass
        code = [registry.file_of("stages", use)]
        key = self._key(use, inputs, fields, reads, code, digests=files, packages=TORCH)

        def make(out: Path) -> dict[str, Any]:
            from edgekd.pipeline.context import stage_context

            student = self.student(before)
            context = stage_context(
                self.roots,
                student=student,
                teacher=lambda: self.roots.teacher(self.entry("teacher").path),
                logits_key=lambda of: self._key(
                    "logits", ["teacher"], of, ["data"], [HERE / "context.py", PACKAGE / "training.py"]
                ),
                calibration=calibration,
                store=self.store,
                work=self.store.work(key),
                progress=self.progress,
                channel_multiple=multiple,
                grid=grid,
            )
            return stage.run(student, context, out)

        self._add(name, Step(name, key, (*inputs, *sorted(stage.reads - {"teacher"})), make))

    def _grid(self) -> str:
        """The grid that the targets' backends have kernels for. Raises EdgekdError if they differ."""
        names = {b for t in self.targets for b in self.values.targets.backends or t.backends}
        facts = self.targets[0].model_dump(mode="json")
        grids = sorted({open_backend(name).grid(facts) for name in names})
        if len(grids) > 1:
            message = f"the targets' backends take different grids: {', '.join(grids)}"
            raise EdgekdError(message, hint="compile for them one recipe at a time")
        return grids[0]

    def _judges(self) -> None:
        """Every version judged in torch: its program, and for a quantized one its fake-quantized network as well."""
        for version in self.versions:
            kinds = ("fake-quantized", "program") if version.quantized else ("network",)
            for kind in kinds:
                self._judge(version, kind)

    def _judge(self, version: Version, kind: str) -> None:
        name = judged(version, kind)
        with_teacher = version.name != "teacher" and "judge teacher" in self.steps
        inputs = (version.name, *(("judge teacher",) if with_teacher else ()))
        key = self._key(f"judge {kind}", inputs, {}, ["data", "metric"], [HERE / "judge.py"], packages=TORCH)

        def make(out: Path) -> dict[str, Any]:
            from edgekd.pipeline.judge import judge, read_outputs, size

            student = self.student(version.name)
            data, metric = self.roots.data(), self.roots.metric()
            with self.progress.task(name):
                module = student.fake_quantized() if kind == "fake-quantized" else student.module()
                teacher = read_outputs(self.entry("judge teacher").path) if with_teacher else None
                facts = judge(out, module, data, metric, teacher)
            return {**facts, **(size(module, student.example()) if kind == "network" else {})}

        self._add(name, Step(name, key, (*inputs, "data"), make))

    def _export(self, version: Version) -> None:
        name = f"export {version.name}"
        key = self._key("export", [version.name], {}, [], [HERE / "engines.py"], packages=EXPORT)

        def make(out: Path) -> dict[str, Any]:
            from edgekd.pipeline.engines import export

            with self.progress.task(name):
                return export(self.student(version.name), out)

        self._add(name, Step(name, key, (version.name,), make))

    def _compile(self, candidate: Candidate) -> None:
        program = f"export {candidate.version.name}"
        backend, threads = candidate.backend, self.values.targets.threads
        facts = candidate.target.model_dump(mode="json")
        fields = {
            "backend": backend,
            "threads": threads,
            "target": {k: facts[k] for k in ("triple", "isa", "precisions")},
        }
        code = [registry.file_of("backends", backend)]
        key = self._key("compile", [program], fields, [], code, packages=open_backend(backend).versions())

        def make(out: Path) -> dict[str, Any]:
            from edgekd.pipeline.engines import compile_engine

            with self.progress.task(f"compile {candidate.name}"):
                return compile_engine(self.entry(program).path, out, backend, facts, threads)

        self._add(candidate.step("compile"), Step(candidate.step("compile"), key, (program, "target"), make))

    def _evaluate(self, candidate: Candidate) -> None:
        engine = candidate.step("compile")
        kind = "program" if candidate.version.quantized else "network"
        program = judged(candidate.version, kind)
        inputs = [engine, program, *(["judge teacher"] if "judge teacher" in self.steps else [])]
        key = self._key(
            "evaluate", inputs, {}, ["data", "metric"], [HERE / "engines.py", HERE / "judge.py"], packages=()
        )

        def make(out: Path) -> dict[str, Any]:
            from edgekd.pipeline.engines import evaluate, parity_of
            from edgekd.pipeline.judge import JUDGED, read_outputs, scores

            data = self.roots.data()
            arrays = {split: data.split(split)[0].numpy() for split in JUDGED}
            label = f"evaluate {candidate.name}"
            outputs = evaluate(self.entry(engine).path, out, arrays, self.values.targets.threads, self.progress, label)
            teacher = read_outputs(self.entry("judge teacher").path) if "judge teacher" in self.entries else None
            facts = scores(outputs, data, self.roots.metric(), teacher)
            torch_outputs = read_outputs(self.entry(program).path)
            return {**facts, "parity": parity_of(outputs, torch_outputs, candidate.version.precision)}

        self._add(candidate.step("evaluate"), Step(candidate.step("evaluate"), key, (*inputs, "data"), make))

    def add_race(self, target: Target, candidates: list[Candidate]) -> str:
        """Plan the race of these engines on the target; asked again when some could not be compiled."""
        name = f"race on {target.name}"
        inputs = [c.step("compile") for c in candidates]
        facts = target.model_dump(mode="json", include={"chip", "cores", "isa", "triple"})
        fields = {
            **self.values.measure.model_dump(),
            "threads": self.values.targets.threads,
            "machine": facts,
            "seed": self.values.seed,
        }
        code = [PACKAGE / "latency" / "race.py", PACKAGE / "latency" / "rounds.py", HERE / "measure.py"]
        key = self._key("race", inputs, fields, [], code, packages=("numpy",))

        def make(out: Path) -> dict[str, Any]:
            from edgekd.pipeline.measure import measure

            engines = {c.name: self.entry(c.step("compile")).path for c in candidates}
            return measure(
                engines, out, self.values, self.roots.data().validation[0].numpy(), self.progress, target.name
            )

        self._add(name, Step(name, key, (*inputs, "target"), make))
        return name
