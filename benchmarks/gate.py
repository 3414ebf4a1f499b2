"""How often `edgekd check` is wrong, and how long it takes. Writes results/gate.json and results/gate.md.

    .venv/bin/python benchmarks/gate.py [--aa 200] [--noisy 50] [--slow 100] [--simulated 1000] [--fresh]

Real engines first: sub-millisecond networks of ONNX Runtime, each checked against itself (A/A: any "regressed" is a false
alarm), on a quiet machine and with a neighbour that keeps another core busy; then against deeper ones of the same kind,
whose slowdown is honest work: more equal layers. What they truly cost is found by a long race of its own. Then simulated
machines, whose truth is known exactly. Every finished check is kept: started again, the script goes on, unless what
decides a check has changed since: then all are made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from noise import BIMODAL, NOISY, QUIET, judged
from onnx import TensorProto, helper, numpy_helper
from published import machine, publish

from edgekd import bundle
from edgekd.backend import Signature, open_backend, write_json
from edgekd.check.verdict import Rule
from edgekd.digest import of_file, of_json
from edgekd.latency.race import race
from edgekd.store import write_whole

HERE = Path(__file__).parent
WORK = HERE.parent / "out" / "benchmark-gate"
DECIDES = ("check/gates.py", "check/session.py", "check/starts.py", "check/verdict.py", "latency/statistics.py")
DECIDES += ("latency/clock.py", "latency/race.py", "latency/rounds.py")
CHECKS = WORK / f"checks-{of_json([of_file(HERE.parent / 'edgekd' / name) for name in DECIDES])[:12]}"
CHANNELS, SIDE, LAYERS = (8, 16, 24), 16, 30
SLOWER = {"8%": 2, "15%": 4}  # layers more than 30; what they truly cost is measured
SECONDS = 15  # the bar
CALM = 0.05  # of the machine, used by others at most while a check ran: nothing disturbed it
MOST = 50  # processes of a simulated check: what the default time allows a sub-millisecond engine


def network(channels: int, layers: int) -> onnx.ModelProto:
    """x [1, channels, 16, 16] through equal 3 × 3 convolutions with ReLU, to y of the same shape."""
    random = np.random.default_rng(channels)
    nodes, held, last = [], [], "x"
    for index in range(layers):
        weight = random.normal(0, (2 / (9 * channels)) ** 0.5, (channels, channels, 3, 3)).astype(np.float32)
        held.append(numpy_helper.from_array(weight, f"w{index}"))
        out = "y" if index == layers - 1 else f"r{index}"
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1] * 4, kernel_shape=[3, 3]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [out]))
        last = out
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, channels, SIDE, SIDE]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def bundled(name: str, channels: int, layers: int) -> Path:
    """A bundle of such a network, made once."""
    final = WORK / "bundles" / name
    if final.is_dir():
        return final
    scratch = WORK / "making"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "engine").mkdir(parents=True)
    onnx.save(network(channels, layers), scratch / "model.onnx")
    write_json(scratch / "program.json", {"precision": "float32", "grid": "none"})
    shape = [1, channels, SIDE, SIDE]
    ports = {s: [{"name": n, "shape": shape, "dtype": "float32"}] for s, n in (("inputs", "x"), ("outputs", "y"))}
    write_json(scratch / "signature.json", ports)
    open_backend("onnxruntime").compile(scratch, scratch / "engine", {}, 1)
    (inputs,) = Signature.read(scratch / "engine").noise(0)
    bundle.write(final, scratch / "engine", {"name": name}, {"inputs": inputs}, [], [])
    return final


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """Another process that keeps a core busy in bursts of half a second, pinned nowhere."""
    if not busy:
        yield
        return
    code = "import time\nwhile True:\n end = time.time() + 0.5\n while time.time() < end: pass\n time.sleep(0.2)"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        child.kill()
        child.wait()


def checked(kind: str, number: int, candidate: Path, baseline: Path, busy: bool = False) -> dict[str, Any]:
    """One check by the command, kept: verdict, seconds, ratio."""
    kept = CHECKS / f"{kind}-{number:04d}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    options = [
        "--floor",
        "0",
        "--json",
        "--quiet",
        "--seed",
        str(number),
        "--allow",
        "bytes=off",
        "--allow",
        "agreement=off",
    ]
    command = [sys.executable, "-m", "edgekd", "check", str(candidate), "--baseline", str(baseline), *options]
    with neighbour(busy):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    (found,) = json.loads(done.stdout)["checks"]
    row = {
        "verdict": found["verdict"],
        "latency": found["latency"]["verdict"],
        "seconds": seconds,
        "others": max((*found["latency"]["race"]["busy"], *found["latency"]["race"]["others"]), default=0.0),
        "looks": found["latency"]["looks"],
        "regressed": [gate["name"] for gate in found["gates"] if gate["state"] == "regressed"],
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(row).encode())
    print(f"{kept.stem}: {row['verdict']} in {seconds:.1f} s", file=sys.stderr)
    return row


def truth(name: str, candidate: Path, baseline: Path, processes: int) -> dict[str, float]:
    """What the candidate truly costs: a race of many processes, kept."""
    kept = CHECKS / f"truth-{name}.json"
    if not kept.is_file():
        engines = {"candidate": candidate / "engine", "baseline": baseline / "engine"}
        found = race(engines, processes=processes, seconds=0.25 * processes, cold_starts=0, seed=99)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(asdict(found.ratio("candidate", "baseline"))).encode())
    return dict(json.loads(kept.read_text()))


def counted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Verdicts and seconds. `undisturbed`: how many kept the bar of so many checks beside which nothing else ran."""
    verdicts = [row["verdict"] for row in rows]
    calm = [row["seconds"] for row in rows if row["others"] <= CALM]
    return {
        "checks": len(rows),
        **{state: verdicts.count(state) for state in ("pass", "regressed", "inconclusive")},
        "seconds": statistics.median(row["seconds"] for row in rows) if rows else None,
        "slowest": max((row["seconds"] for row in rows), default=None),
        "within": sum(row["seconds"] <= SECONDS for row in rows),
        "undisturbed": [sum(times <= SECONDS for times in calm), len(calm)],
        "signals": sorted({name for row in rows for name in row["regressed"]}),
    }


def simulated(runs: int) -> list[dict[str, Any]]:
    """Shares of verdicts on simulated machines; each run kept with its machine and truth."""
    found = []
    for name, device in (("quiet", QUIET), ("bimodal", BIMODAL), ("noisy", NOISY)):
        for slower in (1.0, 1.05, 1.08, 1.15):
            kept = CHECKS / f"simulated-{name}-{slower:g}.json"
            rows = json.loads(kept.read_text()) if kept.is_file() else []
            for run in range(len(rows), runs):
                verdict, last = judged(device, slower, Rule(0.05, 0.0), MOST, run)
                rows.append([verdict, last.processes])
                if (run + 1) % 25 == 0 or run + 1 == runs:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    write_whole(kept, json.dumps(rows).encode())
            rows = rows[:runs]
            counts = {s: sum(v == s for v, _ in rows) for s in ("pass", "regressed", "inconclusive")}
            mean = statistics.fmean(n for _, n in rows)
            found.append({"machine": name, "truth": slower, "checks": runs, **counts, "processes": mean})
    return found


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown, each bar beside what was measured."""

    def row(label: str, bar: str, found: dict[str, Any], more: str = "") -> str:
        if not found["checks"]:
            return f"| {label} | {bar} | not run | | | |"
        shares = [f"{found[s]} ({found[s] / found['checks']:.1%})" for s in ("regressed", "inconclusive")]
        return (
            f"| {label}{more} | {bar} | {found['checks']} | {shares[0]} | {shares[1]} | "
            f"{found['seconds']:.1f} s ({found['slowest']:.1f} s; {found['within']} within {SECONDS} s) |"
        )

    machine, real = results["machine"], results["real"]
    lines = [
        "# The gate, measured",
        "",
        f"{machine['chip']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        + ". Tolerance 5%, floor 0, otherwise defaults; seeds are the checks' numbers.",
        "",
        "| real engines, ONNX Runtime | bar | checks | regressed | inconclusive | seconds, median (slowest; kept) |",
        "|---|---|---|---|---|---|",
        row("A/A, quiet", "regressed ≤ 1%, ≤ 15 s", real["quiet"]),
        row("A/A, busy neighbour", "regressed ≤ 1%, inconclusive ≤ 20%", real["noisy"]),
    ]
    for name, bar in (("8%", "≥ 90%"), ("15%", "≥ 99%")):
        ratios = results["truth"][name]
        cost = (
            f" (truly {min(r['point'] for r in ratios):.3f}× to {max(r['point'] for r in ratios):.3f}×)"
            if ratios
            else ""
        )
        lines.append(row(f"slower by about {name}", f"regressed {bar}", real[name], cost))
    kept, calm = real["quiet"]["undisturbed"]
    while_calm = f"{calm} ran while other processes used at most {CALM:.0%} of the machine at any time"
    lines += [
        "",
        f"Of the {real['quiet']['checks']} quiet checks {while_calm}; {kept} of those took at most {SECONDS} s.",
        "",
        "| simulated machine | truth | checks | regressed | inconclusive | passed | processes, mean |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {r['machine']} | {r['truth']:g}× | {r['checks']} | {r['regressed'] / r['checks']:.1%} | "
            f"{r['inconclusive'] / r['checks']:.1%} | {r['pass'] / r['checks']:.1%} | {r['processes']:.1f} |"
            for r in results["simulated"]
        ),
        "",
        "The simulated machines are `QUIET`, `BIMODAL` and `NOISY` of `benchmarks/noise.py`; a truth of 1.05× lies on the limit.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--aa", type=int, default=200, help="A/A checks on a quiet machine")
    options.add_argument("--noisy", type=int, default=50, help="A/A checks with a busy neighbour")
    options.add_argument("--slow", type=int, default=100, help="checks of each true slowdown")
    options.add_argument("--simulated", type=int, default=1000, help="checks of each simulated machine and truth")
    options.add_argument("--fresh", action="store_true", help="measure everything again")
    args = options.parse_args()
    if args.fresh:
        shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    base = [bundled(f"{c}-{LAYERS}", c, LAYERS) for c in CHANNELS]
    deeper = {k: [bundled(f"{c}-{LAYERS + n}", c, LAYERS + n) for c in CHANNELS] for k, n in SLOWER.items()}

    def each(kind: str, count: int, candidates: Sequence[Path], busy: bool = False) -> list[dict[str, Any]]:
        return [checked(kind, i, candidates[i % len(base)], base[i % len(base)], busy) for i in range(count)]

    real = {"quiet": each("quiet", args.aa, base), "noisy": each("noisy", args.noisy, base, busy=True)}
    real |= {name: each(f"slower-{name.rstrip('%')}", args.slow, candidates) for name, candidates in deeper.items()}
    used = min(args.slow, len(base))
    truths = {k: [truth(f"{d[i].name}", d[i], base[i], processes=20) for i in range(used)] for k, d in deeper.items()}
    results = {
        "real": {name: counted(rows) for name, rows in real.items()},
        "truth": truths,
        "simulated": simulated(args.simulated) if args.simulated else [],
        "machine": machine(),
        "versions": {name: version(name) for name in ("onnxruntime", "numpy")},
    }
    publish("gate", results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
