"""Quantization compared: what to calibrate on, how to round, whom to learn from. results/quantization.{json,md}

    apt-get install dataset-fashion-mnist
    pip install magika silero-vad    # for `files`; one that is not installed is left out, and said to be
    .venv/bin/python benchmarks/quantization.py [--minutes 90] [--seeds 0 1 2 3 4] [--parts grid qat control files imagenet reviews]

The student of examples/fashion is distilled once on the whole set. `grid`: {uniform noise, Gaussian noise, bn_statistics, genie,
64 chosen real images, 512 real ones} × {W8A8, W4A8, W4A4, W2A4} × {min-max, AdaRound, block reconstruction}. `qat`: W4A4 trained
by labels, by the teacher, by both. `control`: the fewest layers left in float for an allowed drop. `files`: ONNX files as they
come, float and int8 raced, and agreement. `imagenet`: MobileNetV2 with its real weights, `reviews`: MiniLM-L6
(quantization_imagenet.py and quantization_text.py tell what to install). Rows that a bar names have every seed, all others the
first; the corners of the grid come before its middle. What is not done within the minutes is not in the table, which says so;
every step is kept in a store, so the next run goes on there. A part that is not asked for stays as an earlier run published
it. `--smoke` tries all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from published import RESULTS, machine, publish
from quantization_files import files
from quantization_imagenet import imagenet
from quantization_imagenet import table as imagenet_table
from quantization_recipe import quantized, ran
from quantization_text import reviews
from quantization_text import table as reviews_table

from edgekd import api
from edgekd.store import write_whole

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "fashion"
WORK = HERE.parent / "out" / "benchmark-quantization"
SOURCES: dict[str, dict[str, Any]] = {
    "uniform": {"source": "npz", "count": 512, "path": "uniform.npz"},
    "gaussian": {"source": "gaussian", "count": 512},
    "bn_statistics": {"source": "bn_statistics", "count": 512, "options": {"label": 0.1}},
    "genie": {"source": "genie", "count": 512, "options": {"label": 0.1}},
    "coreset-64": {"source": "coreset", "count": 64, "options": {"method": "bins"}},
    "real-512": {"source": "data", "count": 512},
}
BITS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4), "W2A4": (2, 4)}
METHODS: dict[str, dict[str, Any]] = {
    "min-max": {"observer": "minmax"},
    "AdaRound": {"observer": "mse", "reconstruction": {"use": "adaround", "iterations": 2000}},
    "block": {"observer": "mse", "reconstruction": {"use": "block", "iterations": 2000}},
}
NAMED = [
    *((source, "W8A8", "min-max") for source in ("genie", "real-512")),
    *((source, "W4A4", "block") for source in ("genie", "real-512", "gaussian")),
    ("genie", "W2A4", "block"),
]
"""Rows that the bars compare: every seed."""
LABELS, TEACHER = {"use": "cross_entropy"}, {"use": "kl", "temperature": 2.0}
PARTS = ["grid", "qat", "control", "files", "imagenet", "reviews"]
NOTHING: dict[str, Any] = {"grid": {}, "asked": 0, "left": 0, "qat": {}, "control": {}, "files": {}}
NOTHING |= {"imagenet": {"why": "not asked for"}, "reviews": {"why": "not asked for"}}
ALLOWED = (0.0, 0.002, 0.005, 0.01)
"""How far the metric may fall, as a share of one; in `control`."""
QAT = {"labels": [LABELS], "teacher": [TEACHER], "labels + teacher": [LABELS, TEACHER]}


def trained(width: int, epochs: int, full: bool) -> None:
    """Distil the student once, and write the recipes' folder: its weights, the example's functions, uniform noise."""
    overrides = [f"distill.epochs={epochs}", f"student.width={width}", f"data.full={str(full).lower()}", "seed=0"]
    plan = api.prepare(EXAMPLE / "recipe.toml", overrides=overrides, store=WORK / "store", quiet=True)
    ran(plan, ("teacher", "student", "distill"))
    for name in ("fashion.py", "fashion.npz", "teacher.safetensors"):
        if not (WORK / name).is_file():
            shutil.copyfile(EXAMPLE / name, WORK / name)
    weights = (plan.entries["distill"].path / "weights.safetensors").read_bytes()
    write_whole(WORK / f"student-{width}.safetensors", weights)
    if not (WORK / "uniform.npz").is_file():
        pixels = np.random.default_rng(0).random((4096, 1, 28, 28), np.float32)
        np.savez(WORK / "uniform.npz", images=(pixels - 0.2860) / 0.3530)


def example(name: str, stage: dict[str, Any], source: str, seed: int, width: int, full: bool) -> dict[str, Any]:
    """One quantized student of the example, scored."""
    head = (
        f'[student]\nfactory = "fashion:student"\nwidth = {width}\nweights = "student-{width}.safetensors"\n'
        '[teacher]\nfactory = "fashion:teacher"\nweights = "teacher.safetensors"\n'
        f'[data]\nfactory = "fashion:data"\nfull = {str(full).lower()}\n'
    )
    return quantized(WORK, name, head, stage, SOURCES[source], seed)[0]


def grid(seeds: list[int]) -> Iterator[tuple[str, str, str, int]]:
    """(source, bits, method, seed): what the bars name first, then the corners, then the rest with one seed."""
    for seed in seeds:
        yield from ((*row, seed) for row in NAMED)
    corners = [
        (s, b, m) for b in ("W8A8", "W2A4") for m in ("min-max", "block") for s in ("genie", "uniform", "real-512")
    ]
    rest = [(s, b, m) for b in BITS for m in METHODS for s in SOURCES]
    for row in dict.fromkeys([*corners, *rest]):
        if row not in NAMED:
            yield (*row, seeds[0])


def control(seeds: list[int], end: float, width: int, full: bool) -> dict[str, Any]:
    """What was left in float with min-max ranges, by seed, of "W4A4, 0.005": layers, and the drop on validation and test."""
    rows: dict[str, Any] = {}
    for seed, bits, allowed in ((s, b, a) for s in seeds for b in BITS for a in ALLOWED):
        if time.monotonic() > end:
            break
        stage = {"observer": "minmax", "weights": BITS[bits][0], "activations": BITS[bits][1]}
        stage |= {"max_drop": allowed, "sensitivity": 64}
        found = example("control", stage, "real-512", seed, width, full)
        told = found["control"]
        row = {"layers": len(told["reverted"]), "tried": told["tried"], "before": told["expected"] - told["before"]}
        row |= {"validation": told["expected"] - told["after"], "test": (found["float"] - found["test"]) / 100}
        rows.setdefault(f"{bits}, {allowed}", []).append(row)
        print(f"control, {bits}, {allowed:g} allowed, seed {seed}: {row['layers']} in float", flush=True)
    return rows


def control_table(rows: dict[str, Any]) -> list[str]:
    """What `control` found, as Markdown, with its bar."""
    if not rows:
        return []
    every = [(row, float(name.split(", ")[1])) for name, runs in rows.items() for row in runs]
    within = sum(row["validation"] <= allowed + 1e-9 for row, allowed in every)
    lines = [
        f"Accuracy control: {within} of {len(every)} runs found a plan within the allowed drop on validation; min-max, real-512.",
        "",
        "| bits, allowed points | drop before | layers in float | drop on validation | on test |",
        "|---|---|---|---|---|",
    ]
    for name, runs in rows.items():
        bits, allowed = name.split(", ")
        drops = [spread([100 * run[key] for run in runs]) for key in ("before", "validation", "test")]
        kept = spread([run["layers"] for run in runs])
        lines.append(f"| {bits}, {100 * float(allowed):g} | {drops[0]} | {kept} | {drops[1]} | {drops[2]} |")
    return [*lines, ""]


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def bars(rows: dict[str, list[dict[str, Any]]], qat: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Each bar, with what was measured; a row that was not reached is said."""

    def gap(name: str, row: str, other: str, most: float) -> str:
        ours, theirs = rows.get(row), rows.get(other)
        if not ours or (other and not theirs):
            return f"| {name} | at most {most} | not reached |"
        lost = [b["test" if other else "float"] - a["test"] for a, b in zip(ours, theirs or ours, strict=False)]
        return f"| {name} | at most {most} | {spread(lost)}, {len(lost)} seeds |"

    found = [
        gap("zero-shot W8A8 below real data", "genie W8A8 min-max", "real-512 W8A8 min-max", 0.1),
        gap("zero-shot W4A4 block below float", "genie W4A4 block", "", 0.2),
        gap("zero-shot W4A4 block below real data", "genie W4A4 block", "real-512 W4A4 block", 0.1),
        gap("zero-shot W2A4 block below float", "genie W2A4 block", "", 0.4),
    ]
    made = [row["calibration_seconds"] for row in rows.get("genie W4A4 block", ())]
    found.append(f"| synthesis of 512 images, seconds | at most 100 | {spread(made) if made else 'not reached'} |")
    if qat.get("labels") and qat.get("labels + teacher"):
        gain = [a["test"] - b["test"] for a, b in zip(qat["labels + teacher"], qat["labels"], strict=False)]
        found.append(f"| QAT W4A4, labels + teacher above labels | above 0 | {spread(gain)}, {len(gain)} seeds |")
    return found


def grid_tables(found: dict[str, Any]) -> list[str]:
    """What the student's rows and the bars were, as Markdown."""
    rows, setting = found["grid"], found["setting"]
    about = (
        f"The student of examples/fashion, width {setting['width']}, distilled for {setting['epochs']} epochs of "
        f"{'55,000' if setting['full'] else '10,000'} images; test accuracy in percent, mean ± standard deviation over seeds "
        f"{', '.join(map(str, setting['seeds']))}; rows without ± have the first. W4A8, W4A4 and W2A4 are simulated in torch. "
        f"{found['left']} rows of {found['asked']} were not reached."
    )
    lines = [about, "", "| bar, points | allowed | measured |", "|---|---|---|", *bars(rows, found["qat"]), ""]
    for bits in BITS:
        lines += [f"| {bits}, calibrated on | {' | '.join(METHODS)} |", "|---|" + "---|" * len(METHODS)]
        for source in SOURCES:
            cells = [rows.get(f"{source} {bits} {method}") for method in METHODS]
            lines.append(
                f"| {source} | {' | '.join(spread([r['test'] for r in cell]) if cell else '–' for cell in cells)} |"
            )
        lines.append("")
    return lines


def where(about: dict[str, Any]) -> list[str]:
    """A line for each machine and set of versions, with the parts that were measured there."""
    parts: dict[str, list[str]] = {}
    for part, one in about.items():
        versions = ", ".join(f"{name} {value}" for name, value in one["versions"].items())
        parts.setdefault(f"{one['machine']['chip']}, {one['machine']['cores']} cores; {versions}", []).append(part)
    return [f"{', '.join(names)}: {said}." for said, names in parts.items()]


def page(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Quantization, compared", "", *where(found["about"]), ""]
    if missing := [part for part in PARTS if not found[part] or "why" in found[part]]:
        lines += [f"Not measured yet: {', '.join(missing)}.", ""]
    if found["grid"]:
        lines += grid_tables(found)
    if found["qat"]:
        lines += ["| QAT, W4A4, taught by | test | validation |", "|---|---|---|"]
        for name, runs in found["qat"].items():
            lines.append(
                f"| {name} | {spread([r['test'] for r in runs])} | {spread([r['validation'] for r in runs])} |"
            )
        lines.append("")
    lines += control_table(found["control"])
    if found["files"]:
        lines += ["| ONNX file | int8 | agreement or fidelity | int8 against float | chosen |", "|---|---|---|---|---|"]
        for name, row in found["files"].items():
            cells = (
                [row["verdict"], row["score"], row["ratio"], row["chosen"]]
                if "why" not in row
                else [row["why"], "–", "–", "–"]
            )
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    if "why" not in found["imagenet"]:
        lines += imagenet_table(found["imagenet"], spread)
    return "\n".join([*lines, *(reviews_table(found["reviews"]) if "why" not in found["reviews"] else [])])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=float, default=90.0, help="no row is begun after these")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options.add_argument("--width", type=int, default=24)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--smoke", action="store_true", help="width 4, a few short rows of each part; printed only")
    args = options.parse_args()
    if args.smoke:
        args.width, args.epochs, args.seeds = 4, 1, [0]
        for method in ("AdaRound", "block"):
            METHODS[method]["reconstruction"]["iterations"] = 20
    full, end = not args.smoke, time.monotonic() + 60 * args.minutes
    WORK.mkdir(parents=True, exist_ok=True)
    if {"grid", "qat", "control"} & set(args.parts):
        trained(args.width, args.epochs, full)
    rows: dict[str, list[dict[str, Any]]] = {}
    asked = list(grid(args.seeds)) if "grid" in args.parts else []
    asked = [("real-512", "W8A8", "min-max", 0), ("gaussian", "W4A4", "block", 0)] if args.smoke and asked else asked
    done = 0
    for source, bits, method, seed in asked:
        if time.monotonic() > end:
            break
        stage = {**METHODS[method], "weights": BITS[bits][0], "activations": BITS[bits][1]}
        name = f"{source} {bits} {method}"
        rows.setdefault(name, []).append(example("grid", stage, source, seed, args.width, full))
        done += 1
        print(f"{name}, seed {seed}: {rows[name][-1]['test']:.2f}", flush=True)
    qat: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds if "qat" in args.parts else ():
        for name, losses in list(QAT.items())[: 1 if args.smoke else None]:
            if time.monotonic() > end:
                break
            training = {"epochs": 1 if args.smoke else 2, "losses": losses, "step_size": "learned"}
            stage = {"weights": 4, "activations": 4, "observer": "mse", "qat": training}
            qat.setdefault(name, []).append(example("qat", stage, "real-512", seed, args.width, full))
            print(f"QAT by {name}, seed {seed}: {qat[name][-1]['test']:.2f}", flush=True)
    made: dict[str, Any] = {"grid": rows, "asked": len(asked), "left": len(asked) - done} if asked else {}
    made |= {"qat": qat} if "qat" in args.parts else {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "control": lambda: control(args.seeds[:1] if args.smoke else args.seeds, end, args.width, full),
        "files": lambda: files(WORK, end, args.smoke),
        "imagenet": lambda: imagenet(WORK, end, args.seeds[:3], args.smoke),
        "reviews": lambda: reviews(WORK, end, args.smoke),
    }
    made |= {name: part() for name, part in parts.items() if name in args.parts}
    file = RESULTS / "quantization.json"
    earlier = json.loads(file.read_text("utf-8")) if file.is_file() and not args.smoke else {}
    versions = {name: version(name) for name in ("torch", "torchao", "onnxruntime", "numpy")}
    about = {part: {"machine": machine(), "versions": versions} for part in PARTS if part in args.parts}
    found: dict[str, Any] = {
        **NOTHING,
        **earlier,
        **made,
        "setting": {"width": args.width, "epochs": args.epochs, "full": full, "seeds": args.seeds},
        "about": {**earlier.get("about", {}), **about},
    }
    if not args.smoke:
        publish("quantization", found, page(found))
    print(page(found))


if __name__ == "__main__":
    main()
