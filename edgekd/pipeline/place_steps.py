"""Steps for each backend that has integer kernels for pairs: the float graph of a file rewritten, then pairs placed in it; of a
quantized student, pairs taken out of its program. Each where it measured faster.

Each makes a program of its own, for one backend on one target. Where nothing measured faster there is none, and why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import registry, worker
from edgekd.backend import open_backend
from edgekd.cuts import FLOAT
from edgekd.errors import EdgekdError
from edgekd.onnx import file as onnx_file
from edgekd.pipeline import onnx_judge, onnx_steps
from edgekd.pipeline import place_told as told
from edgekd.pipeline.step import Candidate, Step, Version, judged
from edgekd.reach import Local

if TYPE_CHECKING:
    import numpy as np

    from edgekd.latency.statistics import Ratio
    from edgekd.pipeline.place_bench import Engines, Programs
    from edgekd.pipeline.plan import Plan
    from edgekd.target import Target

HERE = Path(__file__).parent
PACKAGE = HERE.parent
STAGES = ("quantize", "quantize_onnx")
"""What quantizes activations too."""
LEAST = 20.0
"""dB: what an engine's outputs keep of the float file's, where its integers are placed."""


def add_placements(plan: Plan) -> None:
    """Plan the steps, and their versions, for each backend that has integer kernels for pairs; none on what is not measured here."""
    if not plan.values.targets.placement:
        return
    for target in plan.targets:
        for name in plan.values.targets.backends or target.usable:
            backend, quantized = open_backend(name), _quantized(plan, target, name)
            if quantized is None or not isinstance(target.reach, Local) or target.unmeasured:
                continue
            if backend.compile_only or backend.missing() or (plan.of_file and backend.of_graph):
                continue
            base = "student" if plan.of_file else quantized.program
            if plan.of_file and backend.rewrites:
                rewritten = Version(
                    f"rewritten on {name}", "rewritten", "float32", is_program=True, made_for=target.name
                )
                plan.placed.append(Candidate(rewritten, target, name))
                base = plan.add(rewritten.program, _rewriting(plan, rewritten, target, name))
            if backend.integers:
                placed = Version(f"placed on {name}", "placed", "int8", is_program=True, made_for=target.name)
                plan.placed.append(Candidate(placed, target, name))
                plan.add(placed.program, _placing(plan, placed, base, quantized, target, name))


def left_as_it_came(plan: Plan, target: Target) -> str:
    """Where a quantized program's pairs stay though placements are searched, in words; empty where there is no such engine."""
    searched = {one.backend for one in plan.placed if one.target == target}
    whole = [one for one in plan.candidates if one.target == target and one.version.stage in STAGES]
    kept = [one for one in whole if one.version.precision == "int8" and one.backend not in searched]
    names = dict.fromkeys(one.backend for one in kept)
    if not names or not plan.values.targets.placement:
        return ""
    return (
        f"no pairs were placed by measured cost for {', '.join(names)}: "
        "that is for runtimes that have integer kernels and run on this machine"
    )


def _quantized(plan: Plan, target: Target, backend: str) -> Version | None:
    """The last version in 8 bits, on the grid that the backend takes."""
    found = [v for v in plan.versions if v.stage in STAGES and v.precision == "int8"]
    found = [v for v in found if v.grid in ("", plan.grid_of(backend, target))]
    return found[-1] if found else None


def _fields(plan: Plan, target: Target, backend: str) -> dict[str, Any]:
    facts = target.model_dump(mode="json", include={"chip", "cores", "triple", "isa", "precisions"})
    timing = plan.values.measure.model_dump()
    return {"target": facts, "backend": backend, "threads": plan.values.targets.threads, "timing": timing}


def _key(plan: Plan, kind: str, inputs: list[str], target: Target, backend: str, **more: Any) -> str:
    rewrites = [PACKAGE / "rewrites" / f"{name}.py" for name in ("__init__", *open_backend(backend).rewrites)]
    code = [registry.file_of("backends", backend), HERE / "place_steps.py", *rewrites]
    fields = {**_fields(plan, target, backend), "seed": plan.values.seed, **more}
    packages = {**open_backend(backend).versions(), **open_backend(onnx_steps.RUNTIME).versions()}
    return plan.key(kind, inputs, fields, [], code, packages=packages)


def _bench(plan: Plan, programs: Programs, folder: Path, target: Target, backend: str) -> Engines:
    from edgekd.pipeline.place_bench import Engines

    return Engines(
        programs,
        backend=backend,
        target=target.model_dump(mode="json"),
        threads=plan.values.targets.threads,
        timing=plan.values.measure,
        seed=plan.values.seed,
        timeout=plan.compile_timeout,
        folder=folder,
    )


def _programs(plan: Plan, base: str, quantized: Version, backend: str) -> Programs:
    """The programs to choose among, as the backend reads them."""
    if plan.of_file:
        from edgekd.pipeline.place_onnx import of_file

        return of_file(plan, base, quantized.name, backend)
    if open_backend(backend).of_graph:
        from edgekd.pipeline.place_graph import of_graph

        return of_graph(plan, base, backend)
    from edgekd.pipeline.place_onnx import of_program

    return of_program(plan, base, backend)


def _rewriting(plan: Plan, version: Version, target: Target, backend: str) -> Step:
    """The float graph after the rewrites that measured faster than the slimmed file on this backend."""
    inputs = ["student", "judge student", "samples"]
    key = _key(plan, "rewrite", inputs, target, backend)

    def make(out: Path) -> dict[str, Any]:
        import onnx

        from edgekd.pipeline.place_onnx import OnnxPrograms

        program, work = plan.entry("student").path, plan.store.work(key)
        names = list(open_backend(backend).rewrites)
        with plan.progress.task(version.program):
            request = {"program": str(program), "out": str(work), "rewrites": names}
            said = worker.call("edgekd.rewrites:write", request, env=worker.thread_env(1), timeout=plan.compile_timeout)
            models = {name: onnx.load(work / f"{name}.onnx") for name in said["made"]}
            engines = {}
            for name, model in models.items():
                about = plan.student("student").signature
                bench = _bench(plan, OnnxPrograms(model, about), work / name, target, backend)
                if made := bench.engines([FLOAT]):
                    engines[name] = made[FLOAT]
                else:
                    said["refused"][name] = bench.failed[FLOAT]
            if "slim" not in engines:
                raise EdgekdError(f"{backend}: {said['refused']['slim']}")
            ratios = _raced(plan, engines)
        rows = [{"rewrite": name, "versus_slim": asdict(ratio)} for name, ratio in ratios.items()]
        faster = {name: ratio.point for name, ratio in ratios.items() if ratio.high < 1}
        facts = {"rewrites": rows, "refused": said["refused"], "precision": "float32"}
        best = min(faster, key=lambda name: faster[name], default=None)
        model = models[best or "slim"]
        onnx_file.write_program(out, model, plan.student("student").signature, "float32")
        if best is None:
            return {**facts, "why_not": _no_rewrite(ratios, said["refused"])}
        found = onnx_judge.computed(plan, out, out, version.program)
        return {**facts, **onnx_judge.scores(plan, version, found), "why_not": "", "note": f"rewritten: {best}"}

    return Step(version.program, key, (*inputs, "target"), make)


def _no_rewrite(ratios: Mapping[str, Ratio], refused: Mapping[str, str]) -> str:
    """Why the slimmed graph stays as it is."""
    tried = ", ".join(f"{name} {r.point:.2f}× ({r.low:.2f} to {r.high:.2f})" for name, r in ratios.items())
    failed = "".join(f"; {name}: {why}" for name, why in refused.items())
    return (f"no rewrite is faster: {tried}" if tried else "no rewrite applies to this graph") + failed


def _raced(plan: Plan, engines: Mapping[str, Path]) -> dict[str, Ratio]:
    """Each rewrite's latency over that of "slim"."""
    from edgekd.latency.race import race
    from edgekd.pipeline.engines import plugins

    if len(engines) < 2:
        return {}
    timing = plan.values.measure
    found = race(
        engines,
        processes=timing.processes,
        seconds=timing.seconds / 2,
        cold_starts=0,
        threads=plan.values.targets.threads,
        seed=plan.values.seed,
        plugins=plugins(),
        wait=timing.wait,
    )
    return {name: found.ratio(name, "slim") for name in engines if name != "slim"}


def _placing(plan: Plan, version: Version, base: str, quantized: Version, target: Target, backend: str) -> Step:
    """Pairs where they pay, found by `edgekd.placement.search` on engines of this backend."""
    judges = (
        [judged(quantized, "program")] if not plan.of_file else ["student", "judge student", "samples", quantized.name]
    )
    inputs = sorted({base, *judges})
    key = _key(plan, "place", inputs, target, backend, least=LEAST)

    def make(out: Path) -> dict[str, Any]:
        from edgekd.placement import search, settled
        from edgekd.quant.sites import DYNAMIC, seeds

        with plan.progress.task(version.program):
            programs = _programs(plan, base, quantized, backend)
            sites, links = programs.sites, programs.links()
            if not any(site.weight or site.kind in DYNAMIC for site in sites):
                raise EdgekdError(f"no operator with weights has an integer kernel on {backend}")
            bench = _bench(plan, programs, plan.store.work(key), target, backend)
            names = [site.name for site in sites]
            if programs.covered and settled(links, names, bench):
                return {"placement": told.unchanged(sites), "why_not": told.SETTLED}
            least = LEAST if plan.of_file else -math.inf
            found = search(links, names, seeds(sites), bench, least, programs.given)
        facts: dict[str, Any] = {"precision": "int8", "placement": told.placement(found, sites)}
        if why_not := told.why_not(found, least, programs.given):
            return {**facts, "why_not": why_not}
        programs.write(found.keep, out)
        programs.finish(found.keep, out)
        outputs = onnx_judge.computed(plan, out, out, version.program)
        said = told.note(found, sites)
        if plan.of_file:
            return {**facts, **onnx_judge.scores(plan, version, outputs), "why_not": "", "note": said}
        return {**facts, "why_not": "", "note": f"{said}; {_against(plan, judges[0], outputs)}"}

    return Step(version.program, key, (*inputs, "target"), make)


def _against(plan: Plan, judge: str, outputs: Mapping[str, Sequence[np.ndarray]]) -> str:
    """How far the placed program is from the whole one in torch."""
    from edgekd.pipeline.engines import parity_of
    from edgekd.pipeline.judge import read_outputs

    found = parity_of(outputs["test"][0], read_outputs(plan.entry(judge).path)["test"], "int8")
    return f"gives the whole program's class for {found['top1']:.1%} of test samples, within {found['steps']:.3g} steps"
