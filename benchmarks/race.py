"""Every runtime on the same networks, in float and in integers, on one thread and on two, beside its own recipe.

    .venv/bin/python benchmarks/race.py [--nets "crepe tiny,resnet_18 224"] [--backends onnxruntime,openvino] [--threads 1,2] [--fresh]

Each network has random weights from a seed and is compiled by edgekd for every backend that is installed: float, and quantized
after training on noise. Beside each integer engine stands one that was made as the runtime's manual says (`race_recipes.py`). All
engines of one network and thread count race in the same rounds. TVM races the small networks only: no kernels but the float ones of
the example's student have been searched. Accuracy is likeness to the float network on noise that nothing was calibrated with: how
often the largest output is the same, and the power of the outputs over that of the differences, in dB. Writes results/race.json
and results/race.md. Every finished part is kept: started again, the script goes on. What was published before, here or on another
machine, stays on the page until the same is raced again on that kind of machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import race_nets
from published import RESULTS, machine, publish
from race_recipes import RECIPES
from safetensors.torch import save_file

from edgekd import api, metric, registry, worker
from edgekd.backend import open_backend, own_files
from edgekd.errors import EdgekdError
from edgekd.latency.race import race
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.run import run
from edgekd.store import write_whole
from edgekd.units import format_bytes, format_seconds

HERE = Path(__file__).parent
WORK = HERE.parent / "out" / "benchmark-race"
PUBLISHED = RESULTS / "race.json"
TUNING = HERE.parent / "examples" / "fashion" / "tuning"
"""What tuning.py found: schedules of the float kernels of the example's student."""
SMALL = ("example student", "example teacher", "crepe tiny")
UNTUNED = "its kernels are not tuned for this network, and take seconds a sample"
TIMEOUT = 1800.0
EXACT = 99.9  # dB: outputs that are the same to rounding

RECIPE = """seed = 0
[student]
factory = "race_nets:network"
name = "{net}"
weights = "{weights}"
[data]
factory = "race_nets:data"
name = "{net}"
[[stage]]
use = "quantize"
calibration = "train-128"
observer = "mse"
[targets]
names = ["host"]
"""


def compiled(net: str, backends: Sequence[str], threads: int) -> tuple[Plan, dict[str, str]]:
    """The network's plan, its engines made as far as they can be, and why not for each that cannot."""
    home = WORK / "recipes"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "race_nets.py", home / "race_nets.py")
    weights = home / f"{net}.safetensors".replace(" ", "-")
    if not weights.is_file():
        save_file({k: v.clone() for k, v in race_nets.network(net).state_dict().items()}, str(weights))
    recipe = home / f"{net}.toml".replace(" ", "-")
    write_whole(recipe, RECIPE.format(net=net, weights=weights.name).encode())
    brief = [f"targets.threads={threads}", "measure.seconds=0.05", "measure.processes=1", "measure.wait=0"]
    brief.append("targets.placement=false")  # the program itself, on every runtime
    brief.append(f'targets.tuning="{TUNING}"')
    plan = api.prepare(recipe, overrides=brief, backends=backends, store=WORK / "store", compile_timeout=TIMEOUT)
    return plan, run(plan).failed


def hand_made(net: str, backend: str, program: Path, threads: int) -> Path:
    """The engine of the runtime's own recipe, kept. Raises EdgekdError with the reason if it cannot be made."""
    final = WORK / "hand-made" / f"{net} {backend} {threads}".replace(" ", "-")
    if final.is_dir():
        return final
    making = final.with_name(f".{final.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    request = {"net": net, "program": str(program), "out": str(making), "threads": threads}
    variables = open_backend(backend).variables() if backend in RECIPES else {}
    worker.call(f"race_recipes:{backend}", request, env=variables, timeout=TIMEOUT)
    making.rename(final)
    return final


def accuracy(engine: Path, net: str, threads: int) -> dict[str, float]:
    """{"agreement": how often an engine says what the float network says, "sqnr": dB of its outputs}, on samples of its own."""
    inputs, wanted = race_nets.judged(net)
    files = [WORK / f"{side}.npy" for side in ("inputs", "outputs")]
    np.save(files[0], inputs)
    request = {"engine": str(engine), "inputs": [str(files[0])], "outputs": [str(files[1])]}
    worker.call("evaluate", request, env=worker.thread_env(threads))
    found = np.load(files[1], allow_pickle=False)
    return {"agreement": float((found.argmax(1) == wanted.argmax(1)).mean()), "sqnr": metric.sqnr(found, wanted)}


def kept_at(net: str, backends: Sequence[str], threads: int) -> Path:
    return WORK / "races" / f"{net} {threads} {' '.join(backends)}.json".replace(" ", "-")


def raced(net: str, backends: Sequence[str], threads: int) -> dict[str, Any]:
    """All engines of one network and thread count: medians, agreement, and edgekd's over the hand-made; kept."""
    kept = kept_at(net, backends, threads)
    if kept.is_file():
        return dict(json.loads(kept.read_text("utf-8")))
    missing = {"tvm": UNTUNED} if "tvm" in backends and net not in SMALL else {}
    backends = [name for name in backends if name not in missing]
    plan, failed = compiled(net, backends, threads)
    engines: dict[str, Path] = {}
    for one in plan.candidates:
        name = f"{one.backend} {'float' if one.version.precision == 'float32' else 'int8'}"
        entry = plan.entries.get(one.step("compile"))
        if entry is None:
            missing[name] = failed.get(one.step("compile"), failed.get(one.step("evaluate"), "not made")).splitlines()[
                0
            ]
        else:
            engines[name] = entry.path
    program = plan.entry("export student").path
    recipes = {backend: RECIPES[backend] for backend in backends if backend in RECIPES}
    for backend, (label, package) in recipes.items():
        if find_spec(package) is None:
            missing[f"{backend} by hand"] = f"{label}: {package} is not installed"
            continue
        try:
            engines[f"{backend} by hand"] = hand_made(net, backend, program, threads)
        except EdgekdError as error:
            missing[f"{backend} by hand"] = f"{label}: {error.message.splitlines()[0]}"
    engines["as exported"] = hand_made(net, "as_exported", program, threads)
    judged: dict[str, dict[str, float]] = {}
    for name in list(engines):
        try:
            judged[name] = accuracy(engines[name], net, threads)
        except EdgekdError as error:  # its runtime made it, and does not open it
            missing[name] = error.message.splitlines()[0]
            del engines[name]
    found = race(engines, processes=5, seconds=1.5, cold_starts=0, threads=threads, seed=1, wait=5.0)
    rows: dict[str, dict[str, Any]] = {}
    for name, runner in found.runners.items():
        clock = runner.latency(1)
        size = sum(file.stat().st_size for file in own_files(engines[name]))
        rows[name] = {"median": clock.median, "p90": clock.p90, "bytes": size, **judged[name]}
    pairs = [backend for backend in recipes if {f"{backend} int8", f"{backend} by hand"} <= {*rows}]
    ratios = {backend: asdict(found.ratio(f"{backend} int8", f"{backend} by hand")) for backend in pairs}
    fastest = min(rows, key=lambda name: rows[name]["median"])
    row = {"net": net, "threads": threads, "engines": rows, "missing": missing, "over_hand_made": ratios}
    row |= {"fastest": fastest, "disturbed": found.disturbed, "machine": machine()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(row).encode())
    print(f"{net}, {threads} thread(s): {fastest}, {format_seconds(rows[fastest]['median'])}", file=sys.stderr)
    return row


HEADS = (
    *("network", "threads", "engine", "median", "p90", "size", "agrees with float", "SQNR, dB"),
    "over the hand-made (interval)",
)


def rows_of(row: Mapping[str, Any]) -> list[list[str]]:
    """One race's lines of the table: its engines, the fastest first, and why the others are missing."""
    lines = []
    for name, one in sorted(row["engines"].items(), key=lambda pair: pair[1]["median"]):
        ratio = row["over_hand_made"].get(name.removesuffix(" int8")) if name.endswith(" int8") else None
        compared = f"{ratio['point']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""
        bold = "**" if name == row["fastest"] else ""
        times = [format_seconds(one["median"]), format_seconds(one["p90"]) if one["p90"] else "–"]
        likeness = [f"{one['agreement']:.1%}", f"{min(one['sqnr'], EXACT):.1f}"]
        lines.append([f"{bold}{name}{bold}", *times, format_bytes(one["bytes"]), *likeness, compared])
    lines += [[name, why, "", "", "", "", ""] for name, why in row["missing"].items()]
    return [[row["net"], str(row["threads"]), *cells] for cells in lines]


def table(results: Mapping[str, Any]) -> str:
    """The figures as Markdown, those of each machine under its name."""
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    lines = ["# The runtimes, raced", "", f"{versions}.", ""]
    machines = {row["machine"]["chip"]: row["machine"] for row in results["races"]}
    for chip, host in machines.items():
        lines += [f"## {chip}", "", f"{host['cores']} cores, {host['system']}, Python {host['python']}.", ""]
        lines += [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
        here = [row for row in results["races"] if row["machine"]["chip"] == chip]
        lines += [f"| {' | '.join(cells)} |" for row in here for cells in rows_of(row)]
        lines.append("")
    return "\n".join(lines)


def _which(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["net"], row["threads"], row["machine"]["chip"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nets", default="", help="names, with commas; all by default")
    options.add_argument(
        "--backends", default="", help="names, with commas; by default all that are installed and run here"
    )
    options.add_argument("--threads", default="1,2", help="thread counts, with commas")
    options.add_argument("--fresh", action="store_true", help="compile and measure everything again")
    args = options.parse_args()
    nets = [name for name in args.nets.split(",") if name] or list(race_nets.NETS)
    unknown = {*nets} - {*race_nets.NETS}
    if unknown:
        raise SystemExit(f"no networks called {', '.join(sorted(unknown))}; there are {', '.join(race_nets.NETS)}")
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    names = [name for name in args.backends.split(",") if name] or registry.names("backends")
    opened = {name: open_backend(name) for name in names if name != "null"}
    backends = [name for name, one in opened.items() if not (one.compile_only or one.missing())]
    packages = {k: v for name in backends for k, v in open_backend(name).versions().items()}
    packages |= {name: version(name) for name in ("torch", "onnx", "onnxruntime")}
    results: dict[str, Any] = {"versions": {}, "races": []}
    if PUBLISHED.is_file():
        results = json.loads(PUBLISHED.read_text("utf-8"))
    results["versions"] |= packages
    known = {_which(row): row for row in results["races"]}
    for net in nets:
        for threads in map(int, args.threads.split(",")):
            row = raced(net, backends, threads)
            known[_which(row)] = row
            order = [*race_nets.NETS]
            results["races"] = sorted(known.values(), key=lambda row: (order.index(row["net"]), row["threads"]))
            publish("race", results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
