"""Two steps for each backend of an ONNX file: the float graph rewritten, then pairs placed in it; each where it measured faster.

Both make a program of their own, for one backend on one target. Where nothing measured faster there is none, and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import registry, worker
from edgekd.backend import Signature, open_backend
from edgekd.errors import EdgekdError
from edgekd.onnx import file as onnx_file
from edgekd.pipeline import onnx_judge, onnx_steps
from edgekd.pipeline.step import Candidate, Step, Version
from edgekd.units import format_seconds

if TYPE_CHECKING:
    from edgekd.latency.statistics import Ratio
    from edgekd.pipeline.place_bench import Engines
    from edgekd.pipeline.plan import Plan
    from edgekd.placement import Found
    from edgekd.quant.sites import Site
    from edgekd.target import Target

HERE = Path(__file__).parent
PACKAGE = HERE.parent
LEAST = 20.0
"""dB: what an engine's outputs keep of the float file's, where its integers are placed."""
JUDGED = 16
"""Validation samples that each placement is judged on."""


def add_placements(plan: Plan) -> None:
    """Plan the steps, and their versions, for each backend that has integer kernels for pairs; none on what is not measured."""
    quantized = [version for version in plan.told if (version.stage, version.precision) == ("quantize_onnx", "int8")]
    if not (plan.of_file and quantized and plan.values.targets.placement):
        return
    for target in plan.targets:
        for name in plan.values.targets.backends or target.usable:
            backend = open_backend(name)
            if target.unmeasured or backend.compile_only or backend.missing():
                continue
            rewritten = None
            if backend.rewrites:
                rewritten = Version(
                    f"rewritten on {name}", "rewritten", "float32", is_program=True, made_for=target.name
                )
                plan.placed.append(Candidate(rewritten, target, name))
                plan.add(rewritten.program, _rewriting(plan, rewritten, target, name))
            if backend.integers:
                placed = Version(f"placed on {name}", "placed", "int8", is_program=True, made_for=target.name)
                plan.placed.append(Candidate(placed, target, name))
                plan.add(placed.program, _placing(plan, placed, rewritten, quantized[-1], target, name))


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


def _bench(plan: Plan, folder: Path, target: Target, backend: str, **more: Any) -> Engines:
    from edgekd.pipeline.place_bench import Engines

    return Engines(
        backend=backend,
        target=target.model_dump(mode="json"),
        threads=plan.values.targets.threads,
        timing=plan.values.measure,
        seed=plan.values.seed,
        timeout=plan.compile_timeout,
        folder=folder,
        about=plan.student("student").signature,
        **more,
    )


def _rewriting(plan: Plan, version: Version, target: Target, backend: str) -> Step:
    """The float graph after the rewrites that measured faster than the slimmed file on this backend."""
    inputs = ["student", "judge student", "samples"]
    key = _key(plan, "rewrite", inputs, target, backend)

    def make(out: Path) -> dict[str, Any]:
        import onnx

        from edgekd.cuts import FLOAT

        program, work = plan.entry("student").path, plan.store.work(key)
        names = list(open_backend(backend).rewrites)
        with plan.progress.task(version.program):
            request = {"program": str(program), "out": str(work), "rewrites": names}
            said = worker.call("edgekd.rewrites:write", request, env=worker.thread_env(1), timeout=plan.compile_timeout)
            models = {name: onnx.load(work / f"{name}.onnx") for name in said["made"]}
            engines = {}
            for name, model in models.items():
                bench = _bench(plan, work / name, target, backend, model=model, sites=(), spans={}, feeds=())
                folder = bench.engine(FLOAT)
                if folder is None:
                    said["refused"][name] = bench.failed[FLOAT]
                else:
                    engines[name] = folder
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


def _placing(
    plan: Plan, version: Version, rewritten: Version | None, quantized: Version, target: Target, backend: str
) -> Step:
    """Pairs where they pay, found by `edgekd.placement.search` on engines of this backend."""
    base = rewritten.program if rewritten else "student"
    inputs = [base, *({"student", "judge student", "samples"} - {base}), quantized.name]
    inputs.sort()
    key = _key(plan, "place", inputs, target, backend, least=LEAST)

    def make(out: Path) -> dict[str, Any]:
        import onnx

        from edgekd.onnx.slim import slimmed
        from edgekd.placement import search
        from edgekd.quant.onnx_ptq import feeds
        from edgekd.quant.rewrite import reductions_to_pools
        from edgekd.quant.sites import DYNAMIC, links_of, numbered, ranges, seeds, sites_of

        signature = Signature.read(plan.entry("student").path)
        names = [port.name for port in signature.inputs]
        model = onnx.load(plan.entry(base).path / onnx_file.FILE)
        train, validation = (
            list(islice(feeds(model, dict(zip(names, onnx_steps.arrays(plan, split), strict=True))), most))
            for split, most in (("train", None), ("validation", JUDGED))
        )
        model = model if rewritten else slimmed(model, train[0])
        reductions_to_pools(model)
        model = numbered(model)
        with plan.progress.task(version.program):
            spans = ranges(model, train, plan.entry(quantized.name).facts["observer"])
            sites = sites_of(model, open_backend(backend).integers, spans)
            if not any(site.weight or site.kind in DYNAMIC for site in sites):
                raise EdgekdError(f"no operator with weights has an integer kernel on {backend}")
            links = links_of(model, sites)
            given = {"model": model, "sites": sites, "spans": spans, "feeds": validation}
            bench = _bench(plan, plan.store.work(key), target, backend, **given)
            found = search(links, [site.name for site in sites], seeds(sites), bench, LEAST)
        facts: dict[str, Any] = {"precision": "int8", "placement": _told(found, sites)}
        onnx_file.write_program(out, bench.program(found.keep), plan.student("student").signature, "int8")
        if not found.keep or found.versus_float.high >= 1:
            return {**facts, "why_not": _why_not(found)}
        outputs = onnx_judge.computed(plan, out, out, version.program)
        return {**facts, **onnx_judge.scores(plan, version, outputs), "why_not": "", "note": _note(found, sites)}

    return Step(version.program, key, (*inputs, "target"), make)


def _told(found: Found, sites: Sequence[Site]) -> dict[str, Any]:
    """The placement, as the report has it."""
    kinds = {site.name: site.kind for site in sites}

    def counted(names: Iterable[str]) -> dict[str, int]:
        return dict(sorted(Counter(kinds[name] for name in names).items()))

    return {
        "operators": counted(kinds),
        "integers": counted(found.keep),
        "islands": [
            {"operators": counted(one.sites), "seconds": one.bought, "without": asdict(one.without)}
            for one in found.islands
        ],
        "for_quality": len(found.barred),
        "engines": len(found.tried) + 1,
    }


def _note(found: Found, sites: Sequence[Site]) -> str:
    """As: integers: 12 of 20 Conv, 1 of 1 Gemm; islands bought 31.2 µs (12 Conv), 0.4 µs (1 Gemm)."""
    told = _told(found, sites)
    parts = [f"{told['integers'].get(kind, 0)} of {count} {kind}" for kind, count in told["operators"].items()]
    islands = [f"{_seconds(one['seconds'])} ({_listed(one['operators'])})" for one in told["islands"]]
    quiet = f"; {told['for_quality']} left in float for their noise" if told["for_quality"] else ""
    return f"integers: {', '.join(parts)}{'; islands bought ' if islands else ''}{', '.join(islands)}{quiet}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _seconds(value: float) -> str:
    return format_seconds(value) if value >= 0 else f"\N{MINUS SIGN}{format_seconds(-value)}"


def _why_not(found: Found) -> str:
    if not found.tried:
        return f"every placement loses more than {LEAST:g} dB allow"
    said = f"no quantize/dequantize pair pays: the best of {len(found.tried)} placements takes"
    if not found.keep:
        fastest = min(seconds for _, seconds, _ in found.tried)
        return f"{said} {format_seconds(fastest)}, float {format_seconds(found.float_seconds)}"
    ratio = found.versus_float
    return f"{said} {ratio.point:.2f}× float ({ratio.low:.2f} to {ratio.high:.2f})"
