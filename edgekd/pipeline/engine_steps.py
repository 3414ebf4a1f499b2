"""The steps behind the stages: every version judged in torch, exported, compiled by each backend, evaluated, and raced.

Each function plans one kind of step: its key, what it reads, and what it does when it is run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import digest, registry
from edgekd.backend import open_backend
from edgekd.errors import DeclinedError
from edgekd.pipeline import onnx_judge, tune_steps
from edgekd.pipeline.step import TORCH, Candidate, Step, Version, judged

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.target import Target

HERE = Path(__file__).parent
PACKAGE = HERE.parent
EXPORT = ("torch", "torchao", "onnxscript", "onnx")


def add_judges(plan: Plan) -> None:
    """Every version judged in torch: its program, and for a quantized one its fake-quantized network as well."""
    for version in plan.versions:
        for kind in version.judged_as:
            if version.is_program:
                plan.add(*onnx_judge.judge(plan, version))
            else:
                _add_judge(plan, version, kind)


def _add_judge(plan: Plan, version: Version, kind: str) -> None:
    name = judged(version, kind)
    with_teacher = version.name != "teacher" and "judge teacher" in plan.steps
    inputs = (version.name, *(("judge teacher",) if with_teacher else ()))
    key = plan.key(f"judge {kind}", inputs, {}, ["data", "metric"], [HERE / "judge.py"], packages=TORCH)

    def make(out: Path) -> dict[str, Any]:
        from edgekd.pipeline.judge import judge, judged_network, read_outputs

        data, metric = plan.roots.data(), plan.roots.metric()
        with plan.progress.task(name):
            module, size = judged_network(plan, version, kind)
            teacher = read_outputs(plan.entry("judge teacher").path) if with_teacher else None
            return {**judge(out, module, data, metric, teacher), **size}

    plan.add(name, Step(name, key, (*inputs, "data"), make))


def add_export(plan: Plan, version: Version) -> None:
    if version.is_program:
        return
    name = version.program
    reads = ["student"] if version.is_file else []
    code = HERE / ("onnx_teacher.py" if version.is_file else "engines.py")
    key = plan.key("export", [version.name, *reads], {}, [], [code], packages=EXPORT)

    def make(out: Path) -> dict[str, Any]:
        from edgekd.pipeline import engines, onnx_teacher

        with plan.progress.task(name):
            if not version.is_file:
                return engines.export(plan.student(version.name), out)
            file = plan.entry(version.name).path / onnx_teacher.FILE
            return onnx_teacher.export(file, out, plan.student("student").signature)

    plan.add(name, Step(name, key, (version.name, *reads), make))


def add_compile(plan: Plan, candidate: Candidate) -> None:
    program = candidate.version.program
    backend, threads = candidate.backend, plan.values.targets.threads
    facts = candidate.target.model_dump(mode="json")
    fields = {
        "backend": backend,
        "threads": threads,
        "target": {k: facts[k] for k in ("triple", "isa", "precisions", "compute_capabilities")},
    }
    if open_backend(backend).on_device:
        cache = candidate.target.timing_cache
        fields |= {"reach": facts["reach"], "timing_cache": digest.of_file(Path(cache)) if cache else ""}
    code = [registry.file_of("backends", backend)]
    if held := open_backend(backend).holds(facts):
        fields["machine"] = held
    if plan.values.targets.preprocess == "in_engine":
        fields["in_engine"] = plan.values.preprocessing
        code.append(PACKAGE / "in_engine.py")
    tuning = tune_steps.add(plan, candidate, fields, code)
    inputs = (program, *([tuning.step] if tuning.step else []))
    if tuning.given:
        fields["tuning"] = digest.of_folder(tuning.given)
    key = plan.key("compile", inputs, fields, [], code, packages=open_backend(backend).versions())

    def make(out: Path) -> dict[str, Any]:
        from edgekd.pipeline.engines import compile_engine

        if why_not := plan.entry(program).facts.get("why_not"):
            raise DeclinedError(why_not)
        with plan.progress.task(f"compile {candidate.name}"), source_of(plan, candidate) as source:
            described = {**facts, **tuning.told(plan)}
            return compile_engine(source, out, backend, described, threads, plan.compile_timeout)

    plan.add(candidate.step("compile"), Step(candidate.step("compile"), key, (*inputs, "target"), make))


@contextmanager
def source_of(plan: Plan, candidate: Candidate) -> Iterator[Path]:
    """The candidate's program as backends get it: with its preprocessing inside, where the recipe says so."""
    from edgekd.in_engine import fold
    from edgekd.json_file import read_json
    from edgekd.processing import processing_of

    source = plan.entry(candidate.version.program).path
    with tempfile.TemporaryDirectory() as scratch:
        if plan.values.targets.preprocess == "in_engine":
            around = processing_of(plan.values, read_json(source / "signature.json"))
            fold(source, Path(scratch), around["preprocessing"])
            source = Path(scratch)
        yield source


def add_evaluate(plan: Plan, candidate: Candidate) -> None:
    """The engine's outputs and score; of one that opens on its device only, what its bundle proves itself by there."""
    if candidate.compile_only:
        if open_backend(candidate.backend).on_device:
            _add_golden(plan, candidate)
        return
    engine = candidate.step("compile")
    program = _program(candidate)
    inputs = list(dict.fromkeys([engine, program, *(["judge teacher"] if "judge teacher" in plan.steps else [])]))
    facts, backend = candidate.target.model_dump(mode="json"), open_backend(candidate.backend)
    fields = {"twin": backend.holds({})} if backend.foreign(facts) else {}
    code = [HERE / "engines.py", HERE / "judge.py"]
    key = plan.key("evaluate", inputs, fields, ["data", "metric"], code, packages=())

    def make(out: Path) -> dict[str, Any]:
        from edgekd.pipeline.engines import evaluate, parity_of

        label = f"evaluate {candidate.name}"
        arrays = {split: plan.fed(split) for split in ("validation", "test")}
        with _opened_here(plan, candidate) as folder:
            found = evaluate(folder, out, arrays, plan.values.targets.threads, plan.progress, label)
        if plan.of_file:
            return onnx_judge.evaluated(plan, candidate.version, found)
        from edgekd.pipeline.judge import read_outputs, scores

        data, outputs = plan.roots.data(), {split: arrays[0] for split, arrays in found.items()}
        teacher = read_outputs(plan.entry("judge teacher").path) if "judge teacher" in plan.entries else None
        facts = scores(outputs, data, plan.roots.metric(), teacher)
        torch_outputs = read_outputs(plan.entry(program).path)
        return {**facts, "parity": parity_of(outputs["test"], torch_outputs["test"], candidate.version.precision)}

    plan.add(candidate.step("evaluate"), Step(candidate.step("evaluate"), key, (*inputs, "data"), make))


def _add_golden(plan: Plan, candidate: Candidate) -> None:
    """Golden inputs, and what the engine's program gives for them here."""
    name, inputs = candidate.step("golden"), [candidate.step("compile"), _program(candidate)]
    key = plan.key("golden", inputs, {}, ["data"], [HERE / "engines.py", HERE / "judge.py"], packages=())

    def make(out: Path) -> None:
        from edgekd.backend import Signature
        from edgekd.pipeline.engines import read_arrays, write_golden

        count = len(Signature.read(plan.entry(candidate.step("compile")).path).outputs)
        outputs = read_arrays(plan.entry(_program(candidate)).path / "outputs.npz", "validation", count)
        write_golden(out, plan.fed("validation"), outputs)

    plan.add(name, Step(name, key, (*inputs, "data"), make))


def _program(candidate: Candidate) -> str:
    """The step that judged what the engine was compiled from."""
    return judged(candidate.version, candidate.version.judged_as[-1])


@contextmanager
def _opened_here(plan: Plan, candidate: Candidate) -> Iterator[Path]:
    """The candidate's engine; where that is another processor's code, its twin: the same program compiled for this machine."""
    from edgekd.pipeline.engines import compile_engine

    facts, threads = candidate.target.model_dump(mode="json"), plan.values.targets.threads
    if not open_backend(candidate.backend).foreign(facts):
        yield plan.entry(candidate.step("compile")).path
        return
    here = {**facts, "triple": "", "isa": []}
    with source_of(plan, candidate) as source, tempfile.TemporaryDirectory() as scratch:
        compile_engine(source, Path(scratch), candidate.backend, here, threads, plan.compile_timeout)
        yield Path(scratch)


def add_race(plan: Plan, target: Target, candidates: list[Candidate]) -> str:
    """Plan the race of these engines on the target; asked again when some could not be compiled."""
    name = f"race on {target.name}"
    inputs = [c.step("compile") for c in candidates]
    local = target.reach.kind == "local"
    facts = target.model_dump(mode="json", include={"chip", "cores", "isa", "triple", *(() if local else ("reach",))})
    fields = {
        **plan.values.measure.model_dump(),
        "threads": plan.values.targets.threads,
        "machine": facts,
        "seed": plan.values.seed,
    }
    code = [PACKAGE / "latency" / "race.py", PACKAGE / "latency" / "rounds.py", HERE / "measure.py"]
    key = plan.key("race", inputs, fields, [], code, packages=("numpy",))

    def make(out: Path) -> dict[str, Any]:
        from edgekd.pipeline.measure import measure

        engines = {c.name: plan.entry(c.step("compile")).path for c in candidates}
        golden = {c.name: plan.entry(c.step("evaluate")).path / "golden.npz" for c in candidates}
        arrays, work = plan.fed("validation"), plan.store.work(key)
        return measure(engines, golden, out, plan.values, arrays, plan.progress, target, work, plan.ray)

    plan.add(name, Step(name, key, (*inputs, "target"), make))
    return name
