"""What to cut at a given latency, and by what to decide how much where. Writes results/pruning.json and results/pruning.md.

    .venv/bin/python benchmarks/pruning.py [--width 24] [--epochs 2] [--seeds 0 1 2] [--budgets 0.75 0.5 0.33 0.25]
        [--methods uniform magnitude taylor teacher_gap ctkl] [--minutes 90] [--smoke]

The student of examples/fashion is distilled on the 10,000 training images, pruned to each share of its own latency and trained
again, for the same few epochs whatever was cut. Uniform takes the same share of every group of channels; each criterion is
allocated twice: by multiply-accumulates and by the latency table. Both go as far as the table predicts that the budget allows, are
then compiled, measured and corrected, so the comparison is at one latency and not at one count. The latency table is measured
once; weights do not enter it. Every step is kept in a store, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quantization_recipe import ran

from edgekd import api
from edgekd.errors import UserError
from edgekd.store import write_whole
from edgekd.target import find_target

HERE = Path(__file__).parent
FASHION = HERE.parent / "examples" / "fashion"
WORK = HERE.parent / "out" / "benchmark-pruning"
CRITERIA = ("magnitude", "taylor", "teacher_gap", "ctkl")
STEPS = ("distill", "prune", "judge distill", "judge prune")
BARS = {"budget": 0.05, "better": 2}
LOSSES = '[{ use = "cross_entropy", weight = 0.5 }, { use = "kl", temperature = 4.0, weight = 0.5 }]'
RECIPE = f"""\
[student]
factory = "fashion:student"
[teacher]
factory = "fashion:teacher"
weights = "{FASHION / "teacher.safetensors"}"
[data]
factory = "fashion:data"
[[stage]]
use = "distill"
losses = {LOSSES}
[[stage]]
use = "prune"
budget = {{ latency = "0.5x" }}
losses = {LOSSES}
[targets]
names = ["host"]
"""


def pruned(share: float, method: str, allocation: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One row: accuracies in percent, seconds allowed and measured, and what was left; or why the budget cannot be met."""
    row = {"budget": share, "method": method, "allocation": allocation, "seed": seed}
    sets = {
        "seed": seed,
        "student.width": args.width,
        "distill.epochs": args.distill_epochs,
        "prune.budget.latency": f'"{share:g}x"',
        "prune.criterion": f'"{"magnitude" if method == "uniform" else method}"',
        "prune.allocation": f'"{allocation}"',
        "prune.epochs": args.epochs,
        "prune.samples": args.samples,
        "measure.seconds": args.seconds,
    }
    overrides = [f"{key}={value}" for key, value in sets.items()]
    plan = api.prepare(WORK / "recipe.toml", overrides=overrides, backends=[args.backend], store=WORK / "store")
    try:
        ran(plan, STEPS)
    except UserError as error:
        if "cannot be met" not in error.message:
            raise
        return {**row, "refused": error.message}
    facts, metric = plan.entry("prune").facts, plan.entry("judge prune").facts["metric"]
    before = plan.entry("judge distill").facts["metric"]
    latency = facts["latency"]
    return {
        **row,
        "validation": 100 * metric["validation"],
        "test": 100 * metric["test"],
        "whole": 100 * before["test"],
        "cut": 100 * facts["pruned"]["validation"],
        "macs": facts["pruned"]["macs"] / facts["before"]["macs"],
        "parameters": facts["pruned"]["parameters"],
        **{key: latency[key] for key in ("allowed", "measured", "predicted")},
        "whole_seconds": latency["whole"],
        "plans": len(facts["plan"]["tried"]),
        "seconds": plan.entry("prune").seconds,
    }


def spread(values: list[float], digits: int = 2) -> str:
    if not values:
        return "-"
    return f"{statistics.mean(values):.{digits}f}" + (
        f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    )


def of(rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """The rows that kept their budget, with these fields, by seed."""
    found = [row for row in rows if "test" in row and all(row[key] == value for key, value in fields.items())]
    return sorted(found, key=lambda row: row["seed"])


def gains(rows: list[dict[str, Any]], budget: float, methods: list[str]) -> list[float]:
    """Test accuracy under measured latency above that under multiply-accumulates, of each criterion and seed that have both."""
    found = []
    for method in methods:
        by_macs = {row["seed"]: row["test"] for row in of(rows, budget=budget, method=method, allocation="macs")}
        by_time = of(rows, budget=budget, method=method, allocation="latency")
        found += [row["test"] - by_macs[row["seed"]] for row in by_time if row["seed"] in by_macs]
    return found


def page(found: dict[str, Any]) -> str:
    """The results as Markdown, each bar beside what was measured."""
    rows, setting, machine = found["rows"], found["setting"], found["machine"]
    methods = [name for name in setting["methods"] if name != "uniform"]
    lines = [
        "# Pruning to a latency",
        "",
        (
            f"{machine['chip']}, {machine['cores']} cores, {machine['system']}; "
            + ", ".join(f"{name} {number}" for name, number in found["versions"].items())
            + f". A student of width {setting['width']} on Fashion-MNIST, 10,000 training images, float32 on {setting['backend']}, one "
            f"thread; {setting['epochs']} epochs of recovery; seeds {', '.join(map(str, setting['seeds']))}. Test accuracy, "
            f"mean ± standard deviation; unpruned {spread(sorted({row['whole'] for row in rows if 'whole' in row}))} %."
        ),
    ]
    for budget in setting["budgets"]:
        mine = [row for row in rows if row["budget"] == budget]
        lines += ["", f"## {budget:g} of the latency", ""]
        refused = {row["refused"] for row in mine if "refused" in row}
        lines += [f"* {message}" for message in sorted(refused)] + ([""] if refused else [])
        if not of(mine):
            lines.append("No plan kept it." if mine else "Not run.")
            continue
        lines += [
            "| method | by multiply-accumulates | by measured latency | gain | measured / allowed | multiply-accumulates left |",
            "|---|---|---|---|---|---|",
        ]
        for method in setting["methods"]:
            names = ("uniform",) if method == "uniform" else ("macs", "latency")
            groups = [of(mine, method=method, allocation=name) for name in names]
            accuracy = [spread([row["test"] for row in group]) for group in groups]
            over = "; ".join(spread([row["measured"] / row["allowed"] for row in group]) for group in groups)
            left = "; ".join(spread([100 * row["macs"] for row in group], 0) + "%" for group in groups)
            gain = "" if method == "uniform" else spread(gains(mine, budget, [method]))
            cells = [accuracy[0], accuracy[-1]] if len(groups) > 1 else ["the same share of all", accuracy[0]]
            lines.append(f"| {method} | {cells[0]} | {cells[1]} | {gain} | {over} | {left} |")
    return "\n".join([*lines, "", "## Against the bars", "", *bars(rows, setting, methods), ""])


def bars(rows: list[dict[str, Any]], setting: dict[str, Any], methods: list[str]) -> list[str]:
    """What was asked for and what came out, missed bars in plain words."""
    timed = [row for row in rows if row["allocation"] == "latency"]
    kept = [row for row in of(timed) if row["measured"] <= row["allowed"] * (1 + BARS["budget"])]
    lines = [
        f"* A budget is kept within {BARS['budget']:.0%}, as measured: {len(kept)} of {len(timed)} by measured latency."
    ]
    as_good, better = [], []
    for budget in setting["budgets"]:
        found = gains(rows, budget, methods)
        if not found:
            continue
        mean = statistics.mean(found)
        error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else 0.0
        said = f"{mean:+.2f} ± {1.96 * error:.2f} points over {len(found)} pairs of the same criterion and seed"
        lines.append(f"* {budget:g}: measured latency against multiply-accumulates: {said}.")
        as_good += [budget] if mean >= 0 else []
        better += [budget] if mean > 1.96 * error else []
    told = len(setting["budgets"])
    verdict = "met" if len(as_good) == told and len(better) >= BARS["better"] else "missed"
    lines.append(
        f"* At least as accurate at every budget, better at {BARS['better']} or more: {verdict}. At least as accurate at "
        f"{len(as_good)} of {told}, better by more than 1.96 standard errors at {len(better)}."
    )
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--width", type=int, default=24)
    options.add_argument("--epochs", type=int, default=2, help="of recovery")
    options.add_argument("--distill-epochs", type=int, default=6)
    options.add_argument("--samples", type=int, default=256, help="that a criterion's gradients are of")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--budgets", type=float, nargs="+", default=[0.75, 0.5, 0.33, 0.25])
    options.add_argument("--methods", nargs="+", default=["uniform", *CRITERIA], choices=["uniform", *CRITERIA])
    options.add_argument("--backend", default="onnxruntime")
    options.add_argument("--seconds", type=float, default=1.0, help="that each engine is measured")
    options.add_argument("--minutes", type=float, default=90.0, help="nothing is begun after these")
    options.add_argument(
        "--smoke", action="store_true", help="one budget, two methods, width 8; results are printed only"
    )
    args = options.parse_args()
    if args.smoke:
        args.width, args.epochs, args.distill_epochs, args.samples, args.seconds = 8, 1, 1, 16, 0.1
        args.seeds, args.budgets, args.methods = [0], [0.9], ["uniform", "magnitude"]
    sys.path[:0] = [str(FASHION)]  # where the recipe's factories are
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "recipe.toml").write_text(RECIPE, "utf-8")
    end, host = time.monotonic() + 60 * args.minutes, find_target("host", Path())
    setting = {
        key: getattr(args, key)
        for key in ("width", "epochs", "distill_epochs", "samples", "seeds", "budgets", "methods", "backend", "seconds")
    }
    found: dict[str, Any] = {
        "setting": setting,
        "machine": {"chip": host.chip, "cores": host.cores, "system": platform.platform()},
        "versions": {name: version(name) for name in ("torch", "scipy", args.backend)},
        "rows": [],
    }
    arms = [("uniform", "uniform")] if "uniform" in args.methods else []
    arms += [(name, how) for name in args.methods if name != "uniform" for how in ("macs", "latency")]
    every = [(seed, share, *arm) for seed in args.seeds for share in args.budgets for arm in arms]
    for number, (seed, share, method, allocation) in enumerate(every, 1):
        if time.monotonic() > end:
            print(f"{len(every) - number + 1} of {len(every)} are left: start it again", file=sys.stderr)
            break
        found["rows"].append(pruned(share, method, allocation, seed, args))
        print(f"{number} of {len(every)}: {found['rows'][-1]}", file=sys.stderr, flush=True)
        if not args.smoke:
            (HERE / "results").mkdir(exist_ok=True)
            write_whole(HERE / "results" / "pruning.json", (json.dumps(found, indent=1) + "\n").encode())
            write_whole(HERE / "results" / "pruning.md", page(found).encode())
    print(page(found))


if __name__ == "__main__":
    main()
