"""The main job's figures: how long it takes, what it keeps, what it gains. Writes results/demo.json and results/demo.md.

    apt-get install dataset-fashion-mnist
    .venv/bin/python benchmarks/demo.py [--seeds 0 1 2] [--fresh]

Each seed is one cold `edgekd compile` of examples/fashion with a store of its own, then the same again, cached. The
engines are then judged on the whole test set of 10,000 images, which no stage has seen. Seed 0 is run twice from cold, to
compare the two reports. About 5 minutes a run on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from published import publish

from edgekd.backend import load_engine
from edgekd.report.schema import without_times
from edgekd.store import Store, write_whole
from edgekd.units import format_bytes, format_seconds

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "fashion"
WORK = HERE.parent / "out" / "benchmark-demo"
TINY = [
    "--set",
    "student.width=4",
    "--set",
    "distill.epochs=2",
    "--set",
    "prune.epochs=1",
    "--set",
    "budget.metric_drop=0.1",
]
REPEATS = 7


def timed(*command: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, cwd="/")
    return time.perf_counter() - started


def compile_once(name: str, *more: str) -> dict[str, Any]:
    """One cold run and one cached run in a store of its own: the report and both times."""
    kept = WORK / f"{name}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    store, out = WORK / name / "store", WORK / name / "out"
    shutil.rmtree(WORK / name, ignore_errors=True)
    command = (
        sys.executable,
        "-m",
        "edgekd",
        "compile",
        EXAMPLE / "recipe.toml",
        "--store",
        store,
        "--out",
        out,
        *more,
    )
    found: dict[str, Any] = {"cold": timed(*command), "cached": [timed(*command, "--quiet") for _ in range(3)]}
    found["report"] = json.loads((out / "report.json").read_text())
    write_whole(kept, json.dumps(found).encode())
    return found


def on_full_test(found: dict[str, Any], name: str, engine: str) -> float:
    """Accuracy of an engine on all 10,000 test images."""
    sys.path.insert(0, str(EXAMPLE))
    from fashion import debian, tensors

    images, labels = (t.numpy() for t in tensors(*debian()["test"]))
    key = next(s["key"] for s in found["report"]["plan"] if s["step"] == f"compile {engine} for host")
    with load_engine(Store(WORK / name / "store").path(key)) as session:
        right = [int(session.run([x[None]])[0].argmax()) == y for x, y in zip(images, labels, strict=True)]
    return float(np.mean(right))


def row_of(name: str, seed: int, found: dict[str, Any]) -> dict[str, Any]:
    target = found["report"]["targets"][0]
    engines = {c["name"]: c for c in target["candidates"]}
    chosen = engines[target["chosen"] or target["nearest"]]
    distilled = engines["distill on onnxruntime"]
    asked = ("teacher on onnxruntime", "distill on onnxruntime", chosen["name"])
    accuracy = [on_full_test(found, name, engine) for engine in asked]
    return {
        "seed": seed,
        "chosen": target["chosen"],
        "reason": target["reason"],
        "cold": found["cold"],
        "cached": statistics.median(found["cached"]),
        "teacher": accuracy[0],
        "distilled": accuracy[1],
        "engine": accuracy[2],
        "bytes": chosen["bytes"],
        "share": chosen["bytes"] / distilled["bytes"],
        "latency": chosen["latency"]["median"],
        "versus_float": chosen["versus_float"],
        "versus_teacher": chosen["versus_teacher"],
        "parity": chosen["parity"]["top1"],
        "int8": [
            {k: c[k] for k in ("name", "versus_float", "verdict", "reason")}
            for c in engines.values()
            if c["precision"] == "int8"
        ],
    }


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown, each bar beside what was measured."""
    rows, tiny, machine = results["seeds"], results["tiny"], results["machine"]

    def spread(key: str, scale: float = 1.0, digits: int = 2) -> str:
        values = [row[key] * scale for row in rows]
        deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{deviation}"

    drop = [100 * (row["distilled"] - row["engine"]) for row in rows]
    lines = [
        "# The main job, measured",
        "",
        f"{machine['chip']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v)
        + f". Seeds {', '.join(str(row['seed']) for row in rows)}{'; mean ± standard deviation over them' * (len(rows) > 1)}.",
        "",
        "| figure | bar | measured |",
        "|---|---|---|",
        f"| cold `make demo`, after installation | ≤ 5 min | {format_seconds(max(r['cold'] for r in rows))} (slowest of {len(rows)}) |",
        f"| the same again, everything cached | ≤ 3 s | {max(r['cached'] for r in rows):.2f} s |",
        f"| `edgekd --help` | ≤ 0.3 s | {results['help']:.3f} s |",
        f"| `python -c 'import edgekd'` | ≤ 0.15 s, no torch | {results['import']:.3f} s |",
        f"| teacher, full test set | ≥ 94.0% | {spread('teacher', 100)} % |",
        f"| distilled float student, full test set | | {spread('distilled', 100)} % |",
        f"| chosen engine, full test set | | {spread('engine', 100)} % |",
        f"| drop from the distilled student, points | ≤ 1.0 | {statistics.mean(drop):.2f} (worst {max(drop):.2f}) |",
        f"| bytes of the distilled float engine kept | ≤ 35% | {spread('share', 100, 1)} % ({format_bytes(rows[0]['bytes'])}) |",
        f"| agreement with the program in torch, top-1 | ≥ 99.9% | {100 * min(r['parity'] for r in rows):.2f}% (worst) |",
        f"| two cold runs, seed {rows[0]['seed']}: reports equal apart from times | yes | {'yes' if results['same'] else 'NO'} |",
        "",
        "| seed | chosen | median | latency over float engine (95%) | latency over teacher's engine (95%) |",
        "|---|---|---|---|---|",
        *(
            f"| {r['seed']} | {r['chosen']} | {format_seconds(r['latency'])} | {ratio(r['versus_float'])} | {ratio(r['versus_teacher'])} |"
            for r in rows
        ),
        "",
        "Bars: below 1 with an interval that excludes 1; at most 0.25 of the teacher's.",
        "",
        f"**A tiny student** (width 4): chosen: {tiny['chosen']}. {tiny['int8'][0]['reason']}",
        "",
    ]
    return "\n".join(lines)


def ratio(found: dict[str, float] | None) -> str:
    return f"{found['point']:.3f} ({found['low']:.3f} to {found['high']:.3f})" if found else "float chosen"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--fresh", action="store_true", help="measure everything again")
    args = options.parse_args()
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    runs = {seed: compile_once(f"seed-{seed}", "--set", f"seed={seed}") for seed in args.seeds}
    first = args.seeds[0]
    again = compile_once(f"seed-{first}-again", "--set", f"seed={first}")
    tiny = compile_once("tiny", *TINY)
    results = {
        "seeds": [row_of(f"seed-{seed}", seed, found) for seed, found in runs.items()],
        "tiny": row_of("tiny", 0, tiny),
        "same": without_times(runs[first]["report"]) == without_times(again["report"]),
        "help": statistics.median(timed(sys.executable, "-m", "edgekd", "--help") for _ in range(REPEATS)),
        "import": statistics.median(timed(sys.executable, "-c", "import edgekd") for _ in range(REPEATS)),
        "machine": runs[first]["report"]["provenance"]["machine"],
        "versions": runs[first]["report"]["provenance"]["versions"],
    }
    publish("demo", results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
