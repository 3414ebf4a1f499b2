"""What comes out: the report in three forms, the lock, the raw samples and the bundles. Each file appears whole."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd import bundle, tokenizer
from edgekd.backend import open_backend
from edgekd.errors import StoreError
from edgekd.pipeline import searches
from edgekd.pipeline.calibration import PREVIEW, step_of
from edgekd.processing import processing_of
from edgekd.store import ENTRY, write_whole

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.step import Candidate

LOCK = "edgekd.lock"


def write_output(folder: Path, plan: Plan, report: dict[str, Any]) -> None:
    """Write everything into `folder`. Raises StoreError, naming the path, for a disk that is full or read-only."""
    from edgekd.report import html, markdown

    try:
        samples: dict[str, list[float]] = {}
        for target in report["targets"]:
            name = target["name"]
            if target["samples_file"]:
                race = (plan.entry(f"race on {name}").path / "race.json").read_bytes()
                write_whole(folder / target["samples_file"], race)
                engines = json.loads(race)["engines"]
                prefix = f"{name}/" if len(report["targets"]) > 1 else ""
                samples |= {f"{prefix}{k}": [s for p in e["samples"] for r in p for s in r] for k, e in engines.items()}
            chosen = target["chosen"] or target["nearest"]
            if chosen:
                candidate = next(c for c in plan.candidates if c.target.name == name and c.name == chosen)
                _bundle(folder / "bundles" / name, plan, candidate, report, target)
            else:
                shutil.rmtree(folder / "bundles" / name, ignore_errors=True)
            _built(folder / "built" / name, plan, report, target)
            _tuning(folder / "tuning" / name, plan, name)
        previews = {}
        for shown in report["calibration"]:
            if shown["preview"]:
                step = "samples" if plan.of_file else step_of(shown["version"])
                previews[shown["preview"]] = (plan.entry(step).path / PREVIEW).read_bytes()
                write_whole(folder / shown["preview"], previews[shown["preview"]])
        texts = {
            "report.json": _json(report),
            "report.md": markdown.render(report),
            "report.html": html.render(report, samples, previews),
            LOCK: _json(_lock(report)),
        }
        if found := searches.found_recipe(plan):
            texts[searches.FOUND] = found
        for file, text in texts.items():
            write_whole(folder / file, text.encode())
    except OSError as error:
        where = error.filename or folder
        raise StoreError(
            f"cannot write {where}: {error.strerror}", hint="free space, or choose another folder with --out"
        ) from error


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"


def _built(folder: Path, plan: Plan, report: dict[str, Any], target: dict[str, Any]) -> None:
    """Engines that no session here can run, one folder each: a bundle, where golden outputs can prove it on its device."""
    names = [shown["name"] for shown in target["candidates"] if shown["verdict"] == "built"]
    shutil.rmtree(folder, ignore_errors=True)
    for candidate in plan.candidates:
        if candidate.target.name == target["name"] and candidate.name in names:
            final = folder / re.sub(r"[ ,]+", "-", f"{candidate.version.name}-{candidate.backend}")
            if candidate.step("golden") in plan.entries:
                _bundle(final, plan, candidate, report, target)
                continue
            scratch = folder / f".{final.name}"
            shutil.copytree(plan.entry(candidate.step("compile")).path, scratch, ignore=shutil.ignore_patterns(ENTRY))
            scratch.rename(final)


def _tuning(folder: Path, plan: Plan, target: str) -> None:
    """What was measured of kernels, for `targets.tuning` of a recipe that then need not: one database of all programs."""
    found = {
        name: plan.entry(name).path
        for candidate in plan.candidates
        if candidate.target.name == target and (name := candidate.step("tune")) in plan.entries
    }
    if found:
        from edgekd.compilers.relax_tuning import merged

        folder.mkdir(parents=True, exist_ok=True)
        merged(found, folder)


def _lock(report: dict[str, Any]) -> dict[str, Any]:
    """What makes the same result again: seed, versions, digests, the key of every step, the machine."""
    provenance = report["provenance"]
    return {
        "format": 1,
        "seed": report["seed"],
        "versions": provenance["versions"],
        "digests": provenance["digests"],
        "keys": {step["step"]: step["key"] for step in report["plan"]},
        "machine": provenance["machine"],
    }


def _bundle(final: Path, plan: Plan, candidate: Candidate, report: dict[str, Any], target: dict[str, Any]) -> None:
    """Bundle one engine with golden inputs from the validation split and the outputs that it gave for them."""
    shown = next(c for c in target["candidates"] if c["name"] == candidate.name)
    backend, golden = open_backend(candidate.backend), _golden(plan, candidate)
    facts = {
        "edgekd": report["edgekd"],
        "name": report["name"],
        "engine": candidate.name,
        "backend": candidate.backend,
        "versions": backend.versions(),
        "target": {"name": target["name"], "chip": target["chip"], "threads": target["threads"]},
        "promised": {key: shown[key] for key in ("metric", "metric_validation", "agreement", "latency", "bytes")},
        "keeps_budget": target["chosen"] == candidate.name,
        "tolerance": _tolerance(candidate, golden),
        "digests": report["provenance"]["digests"],
    }
    engine = plan.entry(candidate.step("compile")).path
    licences = [p for p in sorted(plan.recipe.folder.iterdir()) if p.name.upper().startswith(bundle.LICENCE_NAMES)]
    around = processing_of(plan.values, json.loads((engine / "signature.json").read_text("utf-8")))
    before = around["preprocessing"]
    named = {name: plan.recipe.file(name) for name in tokenizer.files_of(before)}
    around["preprocessing"], held = tokenizer.resolve(before, named)
    with tempfile.TemporaryDirectory() as scratch:
        made = {
            LOCK: _json(_lock(report)).encode(),
            **{f"{tokenizer.FOLDER}/{name}": content for name, content in held.items()},
        }
        files = {name: Path(scratch) / str(index) for index, name in enumerate(made)}
        for name, content in made.items():
            files[name].write_bytes(content)
        packages = ["edgekd", *backend.versions()]
        bundle.write(final, engine, facts, golden, licences, packages, around=around, files=files)


def _golden(plan: Plan, candidate: Candidate) -> dict[str, Any]:
    import numpy as np

    step = candidate.step("golden" if candidate.compile_only else "evaluate")
    with np.load(plan.entry(step).path / "golden.npz", allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _tolerance(candidate: Candidate, golden: dict[str, Any]) -> dict[str, float]:
    """How far from its golden outputs a bundle may be. Those of an engine that opens on its device only are its program's:

    rounding differs there, so one class in eight may, and each value by a tenth of what the outputs span.
    """
    if not candidate.compile_only:
        return {"top1": 1.0, "absolute": 1e-4 if candidate.version.precision == "float32" else 1e-2}
    spans = [float(values.max() - values.min()) for name, values in golden.items() if name.startswith("outputs")]
    return {"top1": 0.875, "absolute": 0.1 * max(spans)}
