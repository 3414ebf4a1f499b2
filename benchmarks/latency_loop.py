"""Whether predicted latency is measured latency. Writes results/latency_loop.json and results/latency_loop.md.

    .venv/bin/python benchmarks/latency_loop.py [--plans 50] [--nets "example student" "mobilenet_v2 96"]
        [--backends onnxruntime openvino] [--minutes 90] [--smoke]

For each network, in float and in int8, the latency table is measured as a prune stage under a budget measures it. Then plans are
drawn at random, every group at any width that it may have; each is predicted from the table, compiled and raced beside the whole
student, as the stage does before it believes a plan. Every finished plan is kept; started again, the script goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import race_nets
from published import machine, publish
from quantization_recipe import ran
from safetensors.torch import save_file

from edgekd import api
from edgekd.digest import of_json
from edgekd.latency.design import Space, Widths
from edgekd.pipeline import tables
from edgekd.pipeline.plan import Plan
from edgekd.store import write_whole

HERE = Path(__file__).parent
WORK = HERE.parent / "out" / "benchmark-latency-loop"
BARS = {"within": 0.95, "off": 0.10, "median": 0.03}

RECIPE = """seed = 0
[student]
factory = "race_nets:network"
name = "{net}"
weights = "{weights}"
[data]
factory = "race_nets:data"
name = "{net}"
[[stage]]
use = "prune"
budget = {{ latency = "0.5x" }}
losses = [{{ use = "cross_entropy" }}]
criterion = "magnitude"
epochs = 0
{quantize}
"""
QUANTIZE = '[[stage]]\nuse = "quantize"\ncalibration = "train-128"\n'


def planned(net: str, precision: str, backends: list[str], brief: bool) -> Plan:
    """The recipe's plan, its latency table in the store."""
    WORK.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "race_nets.py", WORK / "race_nets.py")
    weights = WORK / f"{net}.safetensors".replace(" ", "-")
    if not weights.is_file():
        save_file({k: v.clone() for k, v in race_nets.network(net).state_dict().items()}, str(weights))
    recipe = WORK / f"{net} {precision}.toml".replace(" ", "-")
    text = RECIPE.format(net=net, weights=weights.name, quantize=QUANTIZE if precision == "int8" else "")
    write_whole(recipe, text.encode())
    sets = ["measure.seconds=0.02", "measure.processes=2", "measure.wait=0"] if brief else []
    plan = api.prepare(recipe, overrides=sets, backends=backends, store=WORK / "store", quiet=False)
    ran(plan, (tables.step_of("prune"),))
    return plan


def drawn(space: Space, count: int, known: list[Widths]) -> list[Widths]:
    """Random plans that the table has not measured; fewer where the space has no more."""
    random, found = np.random.default_rng(1), []
    for _ in range(100 * count):
        plan = {group: int(random.choice(widths)) for group, widths in space.widths.items()}
        if plan not in known and plan not in found:
            found.append(plan)
        if len(found) == count:
            break
    return found


def rows(net: str, precision: str, backends: list[str], count: int, end: float, brief: bool) -> list[dict[str, Any]]:
    """One row for each plan and engine kind: seconds as predicted and as measured."""
    plan = planned(net, precision, backends, brief)
    work = WORK / "engines" / f"{net} {precision}".replace(" ", "-")
    work.mkdir(parents=True, exist_ok=True)
    pricing = tables.pricing(plan, "prune", "student", work)
    predictors = {kind: pricing.table.predictor(kind) for kind in pricing.kinds}
    key = plan.entry(tables.step_of("prune")).path.name
    found = []
    for index, widths in enumerate(drawn(pricing.table.space, count, list(pricing.table.plans))):
        kept = WORK / "plans" / f"{of_json([key, widths])}.json"
        if not kept.is_file():
            if time.monotonic() > end:
                break
            measured = {kind.backend: one.seconds for kind, one in pricing.measure(widths).items()}
            kept.parent.mkdir(exist_ok=True)
            write_whole(kept, json.dumps(measured).encode())
        for kind, predictor in predictors.items():
            seconds = json.loads(kept.read_text("utf-8"))[kind.backend]
            row = {"net": net, "precision": precision, "backend": kind.backend}
            found.append({**row, "predicted": predictor.predicted(widths), "measured": seconds})
        print(f"{net}, {precision}: plan {index + 1} of {count}", file=sys.stderr, flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    """The figures as Markdown, each bar beside what was measured."""
    machine = results["machine"]
    lines = [
        "# Predicted latency against measured",
        "",
        f"{machine['chip']}, {machine['cores']} cores, {machine['system']}; "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items())
        + ". Random plans that the table had not measured; an error is |predicted / measured − 1|.",
        "",
        f"| network | engine | plans | within ±10% (bar {BARS['within']:.0%}) | median error (bar {BARS['median']:.0%}) | largest |",
        "|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((row["net"], row["precision"], row["backend"]) for row in results["rows"])
    for kind in kinds:
        same = [row for row in results["rows"] if (row["net"], row["precision"], row["backend"]) == kind]
        off = np.abs([row["predicted"] / row["measured"] - 1 for row in same])
        net, precision, backend = kind
        share, median = float((off <= BARS["off"]).mean()), float(np.median(off))
        lines.append(
            f"| {net} | {precision} on {backend} | {len(same)} | {share:.0%} | {median:.1%} | {off.max():.1%} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--plans", type=int, default=50, help="random plans of each network and precision")
    options.add_argument("--nets", nargs="+", default=["example student", "mobilenet_v2 96"], choices=race_nets.NETS)
    options.add_argument("--backends", nargs="+", default=["onnxruntime", "openvino"])
    options.add_argument("--minutes", type=float, default=90.0, help="no plan is begun after these")
    options.add_argument(
        "--smoke", action="store_true", help="two plans of one network, measured briefly; printed only"
    )
    args = options.parse_args()
    if args.smoke:
        args.plans, args.nets = 2, args.nets[:1]
    end = time.monotonic() + 60 * args.minutes
    results: dict[str, Any] = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", *args.backends)},
        "rows": [],
    }
    for net in args.nets:
        for precision in ("float32", "int8"):
            if time.monotonic() < end:
                results["rows"] += rows(net, precision, args.backends, args.plans, end, args.smoke)
            if not args.smoke:
                publish("latency_loop", results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
