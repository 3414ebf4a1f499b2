"""Whether a student's likeness to its teacher, untrained, tells how well it distils. results/student_search.{json,md}

    .venv/bin/python benchmarks/student_search.py [--epochs 4] [--seeds 0 1 2] [--students 20]

Students of examples/fashion's kind, of several widths, depths and kernels, are scored as the search stage scores them
(DisWOT) and distilled, on the 10,000 training images and a short schedule. The table has Spearman's rank correlation of the
score with validation accuracy, beside that of the number of parameters, which costs nothing; overall and among students of
about the same size, and the seconds of either. Every step is kept in a store, so a run that was stopped goes on where it
was. `--smoke` tries the script: two students, one epoch, results are printed only.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from published import publish
from torch import nn

from edgekd import api
from edgekd.search.similarity import suits, teachers_view
from edgekd.target import find_target

HERE = Path(__file__).parent
FASHION = HERE.parent / "examples" / "fashion"
WORK = HERE.parent / "out" / "benchmark-student-search"
STEPS = ("teacher", "student", "distill", "judge teacher", "judge distill")
SAMPLES = 64
RECIPE = f"""\
[student]
factory = "student_search:student"
[teacher]
factory = "fashion:teacher"
weights = "{FASHION / "teacher.safetensors"}"
[data]
factory = "fashion:data"
[[stage]]
use = "distill"
losses = [{{ use = "cross_entropy", weight = 0.5 }}, {{ use = "kl", temperature = 4.0, weight = 0.5 }}]
lr = 0.012
[targets]
names = ["host"]
"""


class Block(nn.Module):
    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(conv(channels, channels, kernel), nn.ReLU(), conv(channels, channels, kernel))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.inner(x))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


def student(width: int = 8, depth: int = 1, kernel: int = 3) -> nn.Module:
    """images [batch, 1, 28, 28] -> logits [batch, 10]; `depth` residual blocks at 14 × 14 and as many at 7 × 7."""
    return nn.Sequential(
        conv(1, width, 3, 2), nn.ReLU(), *(Block(width, kernel) for _ in range(depth)),
        conv(width, 2 * width, 3, 2), nn.ReLU(), *(Block(2 * width, kernel) for _ in range(depth)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def candidates(count: int) -> list[dict[str, int]]:
    """Arguments, the same for the same count: of every width, depth and kernel about as often."""
    every = [{"width": w, "depth": d, "kernel": k} for w in (4, 6, 8, 12, 16) for d in (0, 1, 2, 3) for k in (1, 3, 5)]
    every = [one for one in every if one["depth"] or one["kernel"] == 3]  # without blocks there is no kernel
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    return [every[index] for index in order[:count]]


def tried(arguments: dict[str, int], seeds: list[int], epochs: int) -> dict[str, Any]:
    """Score and validation accuracy in percent of one student, with the seconds of each."""
    runs, score, scoring, parameters = [], 0.0, 0.0, 0
    for seed in seeds:
        sets = [f"student.{name}={value}" for name, value in arguments.items()]
        plan = api.prepare(
            WORK / "recipe.toml", overrides=[*sets, f"seed={seed}", f"distill.epochs={epochs}"], store=WORK / "store"
        )
        for name in STEPS:
            step = plan.steps[name]
            plan.entries[name] = plan.store.get(step.key) or plan.store.make(step.key, step.label, step.make)
        runs.append(
            (100 * plan.entries["judge distill"].facts["metric"]["validation"], plan.entries["distill"].seconds)
        )
        if seed == seeds[0]:
            data = plan.roots.data()
            inputs, targets = (part[:SAMPLES] for part in data.train)
            teacher = teachers_view(plan.roots.teacher(plan.entry("teacher").path), inputs)
            started = time.perf_counter()
            score = suits(teacher, partial(plan.roots.student_with, arguments), inputs, targets)
            scoring = time.perf_counter() - started
            parameters = plan.entries["judge distill"].facts["parameters"]
    accuracies, seconds = zip(*runs, strict=True)
    return {
        **arguments, "score": score, "scoring": scoring, "parameters": parameters,
        "validation": list(accuracies), "training": list(seconds),
    }  # fmt: skip


def rank(found: list[dict[str, Any]], by: str) -> tuple[float, float]:
    """Spearman's correlation of `by` with the mean validation accuracy, and how likely as much is by chance."""
    from scipy.stats import spearmanr

    made = spearmanr([row[by] for row in found], [statistics.mean(row["validation"]) for row in found])
    return float(made[0]), float(made[1])


def alike(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Thirds by number of parameters: within one, size tells little."""
    ordered = sorted(found, key=lambda row: row["parameters"])
    third = -(-len(ordered) // 3)
    return [part for part in (ordered[i : i + third] for i in range(0, len(ordered), third)) if len(part) > 2]


def page(found: list[dict[str, Any]], setting: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = alike(found)
    within = {by: [rank(part, by)[0] for part in parts] for by in ("score", "parameters")}
    cost = (
        statistics.mean(row["scoring"] for row in found),
        statistics.mean(s for row in found for s in row["training"]),
    )
    lines = [
        "# Likeness to the teacher before training, and accuracy after",
        "",
        (
            f"{setting['chip']}, {setting['cores']} cores. {len(found)} students on Fashion-MNIST, {setting['epochs']} epochs of 10,000 "
            f"images, seeds {', '.join(map(str, setting['seeds']))}. A score takes {cost[0]:.2f} s, a training {cost[1]:.1f} s."
        ),
        "",
        "| ranked by | Spearman with validation accuracy | within thirds by size |",
        "|---|---|---|",
        *(
            f"| {name} | {rank(found, by)[0]:+.2f} (p = {rank(found, by)[1]:.2g}) | {', '.join(f'{value:+.2f}' for value in within[by])} |"
            for name, by in (("DisWOT score", "score"), ("number of parameters", "parameters"))
        ),
        "",
        "| width | depth | kernel | parameters | score | validation |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: -statistics.mean(row["validation"])):
        spread = f" ± {statistics.stdev(row['validation']):.2f}" if len(row["validation"]) > 1 else ""
        lines.append(
            f"| {row['width']} | {row['depth']} | {row['kernel']} | {row['parameters']:,} | {row['score']:.4f} | "
            f"{statistics.mean(row['validation']):.2f}%{spread} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--students", type=int, default=20)
    options.add_argument("--smoke", action="store_true", help="two students, one epoch; results are printed only")
    args = options.parse_args()
    if args.smoke:
        args.epochs, args.seeds, args.students = 1, [0], 2
    sys.path[:0] = [str(HERE), str(FASHION)]  # where the recipe's factories are
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "recipe.toml").write_text(RECIPE, "utf-8")
    found = [tried(arguments, args.seeds, args.epochs) for arguments in candidates(args.students)]
    host = find_target("host", Path())
    setting = {"epochs": args.epochs, "seeds": args.seeds, "chip": host.chip, "cores": host.cores}
    if not args.smoke:
        publish("student_search", {"setting": setting, "students": found}, page(found, setting))
    print(page(found, setting))


if __name__ == "__main__":
    main()
