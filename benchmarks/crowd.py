"""A crowd of small networks, each given to edgekd as an ONNX file: is its engine the fastest, and how much faster is it?

    .venv/bin/python benchmarks/crowd.py [--nets plain_64,lstm] [--backends onnxruntime,openvino] [--fresh]

Each network is exported with random weights from a seed, and compiled from a random guess at its inputs as `edgekd compile
net.onnx` does, for one thread of this machine; engines must keep an SQNR of 20 dB against the float file on validation samples.
Then the chosen engine is raced, in processes of its own, against every float engine that edgekd made and against ONNX Runtime
on the file as it was exported. Writes results/crowd.json and results/crowd.md. Every finished network is kept: started again,
the script goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import crowd_convolutional
import crowd_sequences
import onnx
from crowd_nets import NETS, export
from published import machine, publish

from edgekd import api
from edgekd.backend import open_backend, read_json
from edgekd.errors import EdgekdError
from edgekd.latency.race import race
from edgekd.onnx import file as onnx_file
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.results import report_of
from edgekd.pipeline.run import run
from edgekd.store import write_whole

HERE = Path(__file__).parent
WORK = HERE.parent / "out" / "benchmark-crowd"
LEAST = 20.0  # dB
SETTINGS = [
    f"budget.sqnr={LEAST}",
    "budget.metric_drop=1000",
    "data.count=128",
    "measure.seconds=0.6",
    "measure.wait=2",
]
LOADED = (crowd_convolutional, crowd_sequences)  # they fill NETS


def compiled(name: str, backends: Sequence[str]) -> dict[str, Any]:
    """One network through edgekd and the final race; kept."""
    kept = WORK / "nets" / f"{name}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text("utf-8")))
    file = WORK / "files" / f"{name}.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    family = NETS[name][0]
    parameters = export(name, file)
    started = time.perf_counter()
    row: dict[str, Any] = {"net": name, "family": family, "parameters": parameters}
    try:
        plan = api.prepare(file, overrides=SETTINGS, backends=backends, store=WORK / "store")
        report = report_of(plan, run(plan))
    except EdgekdError as error:
        return {**row, "seconds": time.perf_counter() - started, "chosen": None, "reason": error.message, "engines": []}
    (target,) = report["targets"]
    row |= {"seconds": time.perf_counter() - started, "chosen": target["chosen"], "reason": target["reason"]}
    keys = ("name", "precision", "verdict", "reason", "sqnr", "sqnr_validation", "placement", "note", "bytes")
    row["engines"] = [{key: one[key] for key in keys} for one in target["candidates"]]
    if target["chosen"]:
        row |= raced(plan, target, file)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(row).encode())
    print(f"{name}: {target['chosen']}, {row.get('speed', math.nan):.2f}×, {row['seconds']:.0f} s", file=sys.stderr)
    return row


def raced(plan: Plan, target: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The chosen engine against every float engine and the file as it is."""
    planned = {one.name: plan.entries.get(one.step("compile")) for one in plan.candidates}
    chosen = next(one for one in target["candidates"] if one["name"] == target["chosen"])
    floats = {c["name"]: planned[c["name"]] for c in target["candidates"] if c["precision"] == "float32"}
    engines = {name: entry.path for name, entry in floats.items() if entry is not None}
    engines["chosen"] = plan.entry(next(c for c in plan.candidates if c.name == chosen["name"]).step("compile")).path
    engines["as exported"] = as_exported(file, plan)
    found = race(engines, processes=5, seconds=1.0, cold_starts=0, seed=1, wait=5.0)
    medians = {name: runner.latency(1).median for name, runner in found.runners.items()}
    best = min((name for name in engines if name not in ("chosen", "as exported")), key=lambda name: medians[name])
    return {
        "precision": chosen["precision"],
        "sqnr": chosen["sqnr"],
        "best_float": best,
        "medians": medians,
        "versus_float": asdict(found.ratio("chosen", best)),
        "versus_exported": asdict(found.ratio("chosen", "as exported")),
        "speed": 1 / found.ratio("chosen", "as exported").point,
        "disturbed": found.disturbed,
    }


def as_exported(file: Path, plan: Plan) -> Path:
    """An engine of ONNX Runtime that is the file itself, with the runtime's own optimisations and no other."""
    home = WORK / "exported" / file.stem
    shutil.rmtree(home, ignore_errors=True)
    (home / "engine").mkdir(parents=True)
    student = plan.entry("student").path
    options = read_json(plan.entry("compile student on onnxruntime for host").path / "engine.json")["options"]
    model = onnx_file.load(file)
    onnx_file.fix_batch(model)
    onnx.save(model, home / "engine" / "model.onnx")
    shutil.copyfile(student / "signature.json", home / "engine" / "signature.json")
    facts = {"backend": "onnxruntime", "file": "model.onnx", "threads": 1, "options": options, "format": 1}
    (home / "engine" / "engine.json").write_text(json.dumps(facts), "utf-8")
    return home / "engine"


def mean(values: Sequence[float]) -> float | None:
    """The geometric mean."""
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None


def summed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    done = [row for row in rows if row.get("versus_float")]
    return {
        "nets": len(rows),
        "with_an_engine": len(done),
        "slower_than_float": [row["net"] for row in done if row["versus_float"]["low"] > 1],
        "below_20_db": [row["net"] for row in done if row["sqnr"] is not None and row["sqnr"] < LEAST],
        "integer": sum(row["precision"] == "int8" for row in done),
        "speed": mean([row["speed"] for row in done]),
        "over_best_float": mean([1 / row["versus_float"]["point"] for row in done]),
        "disturbed": [row["net"] for row in done if row["disturbed"]],
        "seconds": sum(row["seconds"] for row in rows),
    }


def table(results: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    machine, all_of = results["machine"], results["summary"]
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    said = [
        f"{machine['chip']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; one thread; {versions}.",
        f"Backends: {', '.join(results['backends'])}. Settings: {', '.join(SETTINGS)}.",
    ]
    found = [
        f"{all_of['nets']} networks, {all_of['with_an_engine']} with an engine, {all_of['integer']} of them with integers.",
        f"Geometric mean: {all_of['speed'] or math.nan:.2f}× over ONNX Runtime on the file as exported (bar: 1.4×),",
        f"{all_of['over_best_float'] or math.nan:.2f}× over the best float engine. Slower than the best float engine, by the",
        f"interval: {', '.join(all_of['slower_than_float']) or 'none'} (bar: none). SQNR below 20 dB on the test samples:",
        f"{', '.join(all_of['below_20_db']) or 'none'} (bar: none).",
    ]
    heads = [
        "network",
        "family",
        "parameters",
        "engine",
        "time over the best float's (interval)",
        "best float",
        "SQNR, dB",
    ]
    heads += ["speed-up over the file as exported", "compiled in"]
    lines = ["# A crowd of small networks", "", " ".join(said), "", " ".join(found), ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in results["nets"]:
        begin = f"| {row['net']} | {row['family']} | {row['parameters']:,} |"
        if not row.get("versus_float"):
            lines.append(f"{begin} none: {row['reason']} | | | | | {row['seconds']:.0f} s |")
            continue
        ratio = row["versus_float"]
        lines.append(
            f"{begin} {row['chosen']} | {ratio['point']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) | {row['best_float']} | "
            f"{row['sqnr']:.1f} | {row['speed']:.2f}× | {row['seconds']:.0f} s |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nets", default="", help="names, with commas; all by default")
    options.add_argument("--backends", default="onnxruntime,openvino", help="those that are not installed are left out")
    options.add_argument("--fresh", action="store_true", help="compile and measure everything again")
    args = options.parse_args()
    unknown = {*filter(None, args.nets.split(","))} - {*NETS}
    if unknown:
        raise SystemExit(f"no networks called {', '.join(sorted(unknown))}; there are {', '.join(NETS)}")
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    backends = [name for name in args.backends.split(",") if not open_backend(name).missing()]
    names = [name for name in args.nets.split(",") if name] or list(NETS)
    results: dict[str, Any] = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxslim", *backends)},
        "backends": backends,
        "nets": [],
    }
    for name in names:
        results["nets"].append(compiled(name, backends))
        results["summary"] = summed(results["nets"])
        publish("crowd", results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
