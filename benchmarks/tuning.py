"""Kernels searched by TVM on the example's student: what the search takes, and what its engine gains on ONNX Runtime's.

    .venv/bin/python benchmarks/tuning.py [--trials 600] [--ship] [--fresh]

The student has random weights from a seed (`race_nets.py`): schedules fit shapes. Its float engines, TVM's tuned and untuned and ONNX
Runtime's, race on one thread in the same rounds, and all give their outputs for the same noise. Writes results/tuning.json and
results/tuning.md; `--ship` puts the database that the search found into examples/fashion/tuning. About 15 minutes on 2 cores. A search
that was stopped goes on; started again, what is finished is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import race_nets
from safetensors.torch import save_file

from edgekd import api, worker
from edgekd.backend import open_backend, read_json
from edgekd.compilers.relax_tuning import FILES
from edgekd.latency.race import race
from edgekd.pipeline.run import run
from edgekd.store import write_whole
from edgekd.target import find_target
from edgekd.units import format_bytes, format_seconds

HERE = Path(__file__).parent
WORK = HERE.parent / "out" / "benchmark-tuning"
SHIPPED = HERE.parent / "examples" / "fashion" / "tuning"
NET = "example student"
TUNED, UNTUNED, BASELINE = "tvm, tuned", "tvm, untuned", "onnxruntime"
OVER_BASELINE, MINUTES = 1.5, 15.0  # the bars

RECIPE = f"""seed = 0
[student]
factory = "race_nets:network"
name = "{NET}"
weights = "student.safetensors"
[data]
factory = "race_nets:data"
name = "{NET}"
[targets]
names = ["host"]
[measure]
seconds = 0.05
processes = 1
wait = 0
"""


def compiled(*overrides: str) -> dict[str, Path]:
    """The engines of one run, by backend, and the database that its search wrote, if it had one."""
    home = WORK / "recipe"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "race_nets.py", home / "race_nets.py")
    if not (home / "student.safetensors").is_file():
        weights = {k: v.clone() for k, v in race_nets.network(NET).state_dict().items()}
        save_file(weights, str(home / "student.safetensors"))
    write_whole(home / "recipe.toml", RECIPE.encode())
    plan = api.prepare(home / "recipe.toml", overrides=overrides, store=WORK / "store")
    failed = run(plan).failed
    if failed:
        raise SystemExit("\n".join(f"{step}: {why}" for step, why in failed.items()))
    found = {one.backend: plan.entry(one.step("compile")).path for one in plan.candidates}
    searched = [one.step("tune") for one in plan.candidates if one.step("tune") in plan.entries]
    return {**found, **({"database": plan.entry(searched[0]).path} if searched else {})}


def outputs(engine: Path) -> np.ndarray:
    """What an engine gives for noise, [samples, classes]."""
    files = [WORK / f"{side}.npy" for side in ("inputs", "outputs")]
    np.save(files[0], race_nets.noise(NET, race_nets.SAMPLES, 1).numpy())
    request = {"engine": str(engine), "inputs": [str(files[0])], "outputs": [str(files[1])]}
    worker.call("evaluate", request, env=worker.thread_env(1))
    found: np.ndarray = np.load(files[1], allow_pickle=False)
    return found


def raced(engines: Mapping[str, Path], trials: int) -> dict[str, Any]:
    """Medians, ratios with their intervals, differences from ONNX Runtime's outputs; kept."""
    kept = WORK / f"race-{trials}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text("utf-8")))
    found = race(engines, processes=7, seconds=2.0, cold_starts=0, threads=1, seed=1, wait=30.0)
    expected = outputs(engines[BASELINE])
    rows = {
        name: {
            "median": runner.latency(1).median,
            "p90": runner.latency(1).p90,
            "bytes": read_json(engines[name] / "engine.json")["bytes"],
            "over_onnxruntime": asdict(found.ratio(name, BASELINE)) if name != BASELINE else None,
            "difference": float(np.abs(outputs(engines[name]) - expected).max()),
        }
        for name, runner in found.runners.items()
    }
    gain = asdict(found.ratio(UNTUNED, TUNED))
    result = {"engines": rows, "untuned_over_tuned": gain, "disturbed": found.disturbed}
    write_whole(kept, json.dumps(result).encode())
    return result


def table(results: Mapping[str, Any]) -> str:
    """The figures as Markdown, each bar beside what was measured."""
    machine, search = results["machine"], results["search"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    ratio = results["engines"][TUNED]["over_onnxruntime"]
    lines = [
        "# TVM, tuned",
        "",
        (
            f"{machine['chip']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; {versions}. One thread, "
            f"seed 0{'; the machine was not quiet' if results['disturbed'] else ''}."
        ),
        "",
        "| figure | bar | measured |",
        "|---|---|---|",
        f"| tuned over ONNX Runtime, float | ≤ {OVER_BASELINE:g}× | {told(ratio)} |",
        (
            f"| the search | ≤ {MINUTES:g} min | {search['seconds'] / 60:.1f} min, {search['trials']} trials, "
            f"{search['tuned']} of {search['kernels']} kernels |"
        ),
        f"| untuned over tuned | | {told(results['untuned_over_tuned'])} |",
        f"| the database | | {format_bytes(search['bytes'])} |",
        "",
        "| engine | median | p90 | over ONNX Runtime (95%) | size | farthest from ONNX Runtime's outputs |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in sorted(results["engines"].items(), key=lambda pair: pair[1]["median"]):
        p90 = format_seconds(one["p90"]) if one["p90"] else "–"
        over = told(one["over_onnxruntime"]) if one["over_onnxruntime"] else ""
        cells = [name, format_seconds(one["median"]), p90, over, format_bytes(one["bytes"]), f"{one['difference']:.1e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def told(ratio: Mapping[str, float]) -> str:
    return f"{ratio['point']:.2f}× ({ratio['low']:.2f} to {ratio['high']:.2f})"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=600, help="measured in the search, of all kernels")
    options.add_argument("--ship", action="store_true", help="put the database into examples/fashion/tuning")
    options.add_argument("--fresh", action="store_true", help="search and measure again")
    args = options.parse_args()
    for name in ("tvm", "onnxruntime"):
        if command := open_backend(name).missing():
            raise SystemExit(f"{name} is not installed: {command}")
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    others = compiled('targets.backends=["onnxruntime", "tvm"]')
    tuned = compiled('targets.backends=["tvm"]', f"targets.tune={args.trials}")
    database = tuned["database"]
    engines = {TUNED: tuned["tvm"], UNTUNED: others["tvm"], BASELINE: others["onnxruntime"]}
    host = find_target("host", Path())
    versions = {k: v for name in ("tvm", "onnxruntime") for k, v in open_backend(name).versions().items()}
    search = read_json(engines[TUNED] / "engine.json")["tuning"]
    results: dict[str, Any] = {
        "machine": {
            "chip": host.chip,
            "cores": host.cores,
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": versions,
        "search": {**search, "bytes": sum((database / name).stat().st_size for name in FILES)},
        **raced(engines, args.trials),
    }
    (HERE / "results").mkdir(exist_ok=True)
    write_whole(HERE / "results" / "tuning.json", (json.dumps(results, indent=1) + "\n").encode())
    write_whole(HERE / "results" / "tuning.md", table(results).encode())
    if args.ship:
        SHIPPED.mkdir(exist_ok=True)
        for name in FILES:
            write_whole(SHIPPED / name, (database / name).read_bytes())
        print(f"put into {SHIPPED}", file=sys.stderr)
    print(table(results))


if __name__ == "__main__":
    main()
