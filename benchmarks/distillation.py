"""Which objective pays: every loss beside cross-entropy, screened, then the best with five seeds. results/distillation.{json,md}

    apt-get install dataset-fashion-mnist
    .venv/bin/python benchmarks/distillation.py [--width 16] [--epochs 4] [--full-epochs 8] [--seeds 0 1 2 3 4] [--best 5]

Screened: one seed, the 10,000 training images of examples/fashion, a short schedule. Then cross-entropy and the best are
trained on the whole set. The budget is equal for all; the teacher is asked once for each view of the data. What is chosen is
chosen on the validation split; the test split is told only of what is trained on the whole set. Every step is kept in a
store, so a run that was stopped goes on where it was. `--only kl dkd` and `--smoke` (two losses, one epoch, no second part)
try the script.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from edgekd import api, registry
from edgekd.errors import UserError
from edgekd.store import write_whole
from edgekd.target import find_target

HERE = Path(__file__).parent
RECIPE = HERE.parent / "examples" / "fashion" / "recipe.toml"
WORK = HERE.parent / "out" / "benchmark-distillation"
STEPS = ("teacher", "student", "distill", "judge teacher", "judge distill")
LEFT_OUT = {
    "attention_align": "the networks have no attention",
    "attention_relations": "the networks have no tokens",
    "cosine_cached": "their outputs are no embeddings",
    "permuted_dark": "a control, not a method",
    "cross_entropy": "the baseline",
}
LOSSES = {name: {"use": name} for name in registry.names("losses") if name not in LEFT_OUT} | {
    "attention_map": {"use": "attention_map", "weight": 5.0},
    "crd": {"use": "crd", "weight": 0.02, "negatives": 1024},
    "rkd": {"use": "rkd", "weight": 20.0},
}
"""One setting for each: the loss's own defaults, but for these weights, which are first guesses, not yet tuned on validation."""
CE = {"use": "cross_entropy"}


def toml(table: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"


def trained(losses: list[dict[str, Any]], seed: int, width: int, epochs: int, full: bool) -> dict[str, float]:
    """Validation and test accuracy of one distilled student, in percent, and its teacher's; from the store if it is there."""
    overrides = [
        f"distill.losses=[{', '.join(map(toml, losses))}]",
        f"distill.epochs={epochs}",
        f"student.width={width}",
        f"seed={seed}",
        f"data.full={str(full).lower()}",
    ]
    plan = api.prepare(RECIPE, overrides=overrides, store=WORK / "store")
    for name in STEPS:
        step = plan.steps[name]
        plan.entries[name] = plan.store.get(step.key) or plan.store.make(step.key, step.label, step.make)
    metric, teacher = (plan.entries[f"judge {name}"].facts["metric"] for name in ("distill", "teacher"))
    return {**{split: 100 * metric[split] for split in ("validation", "test")}, "teacher": 100 * teacher["test"]}


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    base = found["screened"]["cross_entropy"]["validation"]
    rows = sorted(found["screened"].items(), key=lambda item: -item[1]["validation"])
    setting, machine = found["setting"], found["machine"]
    lines = [
        "# Objectives, compared",
        "",
        (
            f"{machine['chip']}, {machine['cores']} cores. A student of width {setting['width']} on Fashion-MNIST, each loss beside "
            f"cross-entropy; validation accuracy after {setting['epochs']} epochs of 10,000 images, one seed."
        ),
        "",
        "| loss | validation | over cross-entropy |",
        "|---|---|---|",
        *(f"| {name} | {row['validation']:.2f}% | {row['validation'] - base:+.2f} |" for name, row in rows),
        "",
        "Left out: "
        + "; ".join(f"{n}: {reason}" for n, reason in {**LEFT_OUT, **found["refused"]}.items() if n != "cross_entropy")
        + ".",
        "",
    ]
    if found["whole"]:
        lines += [
            (
                f"The best on the whole set, {setting['full_epochs']} epochs, seeds {', '.join(map(str, setting['seeds']))}; "
                "mean ± standard deviation."
            ),
            "",
            "| loss | validation | test | test, over cross-entropy of the same seed |",
            "|---|---|---|---|",
        ]
        plain = [run["test"] for run in found["whole"]["cross_entropy"]]
        for name, runs in found["whole"].items():
            gain = [run["test"] - other for run, other in zip(runs, plain, strict=True)]
            validation, test = (spread([run[split] for run in runs]) for split in ("validation", "test"))
            lines.append(f"| {name} | {validation} % | {test} % | {spread(gain)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--width", type=int, default=16)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--full-epochs", type=int, default=8)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--best", type=int, default=5)
    options.add_argument("--only", nargs="+", choices=sorted(LOSSES), default=sorted(LOSSES), help="screen these")
    options.add_argument(
        "--smoke", action="store_true", help="kl and hint, one epoch, width 4; results are printed only"
    )
    args = options.parse_args()
    if args.smoke:
        args.only, args.epochs, args.width, args.best, args.seeds = ["hint", "kl"], 1, 4, 0, []
    arms = {"cross_entropy": [CE], **{name: [CE, LOSSES[name]] for name in args.only}}
    screened: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    for name, losses in arms.items():
        try:
            screened[name] = trained(losses, 0, args.width, args.epochs, full=False)
        except UserError as error:
            refused[name] = error.message
    ranking = sorted((n for n in args.only if n in screened), key=lambda name: -screened[name]["validation"])
    whole = {
        name: [trained(arms[name], seed, args.width, args.full_epochs, full=True) for seed in args.seeds]
        for name in (["cross_entropy", *ranking[: args.best]] if args.seeds else [])
    }
    setting = {key: getattr(args, key) for key in ("width", "epochs", "full_epochs", "seeds")}
    host = find_target("host", Path())
    machine = {"chip": host.chip, "cores": host.cores}
    found = {"setting": setting, "losses": arms, "screened": screened, "refused": refused, "whole": whole}
    found["machine"] = machine
    if not args.smoke:
        (HERE / "results").mkdir(exist_ok=True)
        write_whole(HERE / "results" / "distillation.json", (json.dumps(found, indent=1) + "\n").encode())
        write_whole(HERE / "results" / "distillation.md", page(found).encode())
    print(page(found))


if __name__ == "__main__":
    main()
