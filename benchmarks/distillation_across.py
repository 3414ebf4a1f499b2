"""From one architecture to another, for benchmarks/distillation.py: a vision transformer teaches a CNN, and a CNN a transformer.

On Fashion-MNIST, three seeds. The transformer that teaches is trained once on the whole set, by labels and by the example's teacher
(a convolutional net teaches a transformer well: Touvron et al. 2020, arXiv 2012.12877), and kept.
"""

from __future__ import annotations

from pathlib import Path

from distillation_fashion import STUDENTS, student
from distillation_recipe import CE, EXAMPLE, LONG_LR, Found, Row, Setting, grouped, made
from paired import gain, shown, spread

TRANSFORMER = {"factory": "distillation_nets:transformer"}
LARGE = {**TRANSFORMER, "width": 64, "depth": 4, "heads": 4}
SMALL = {**TRANSFORMER, "width": 32, "depth": 2, "heads": 2}
TRANSFORMER_LR = 3e-3
KL = {"use": "kl", "temperature": 4.0}
TAUGHT = {"losses": [CE, KL], "epochs": 2, "lr": 2e-3, "warmup_epochs": 0.2}
"""Of the transformer that teaches; four copies of each image, so eight passes."""


def arms(own: str, theirs: str) -> dict[str, list[Found]]:
    """Losses, of which those on features compare the modules `own` and `theirs`: maps with tokens."""
    names = {"student": own, "teacher": theirs}
    return {
        "cross_entropy": [CE],
        "kl": [CE, KL],
        "dist": [CE, {"use": "dist"}],
        "rkd": [CE, {"use": "rkd", **names, "weight": 20.0}],
        "ofa": [CE, {"use": "ofa", "student": own}],
        "cross_attention (ScaleKD)": [CE, {"use": "cross_attention", **names}],
    }


def teacher(setting: Setting) -> tuple[Found, float]:
    """The [teacher] that is a transformer, and its test accuracy in percent."""
    data = setting.data(full=True, copies=4)
    row = Row("the transformer that teaches", LARGE, data, {**TAUGHT, "epochs": 1} if setting.smoke else TAUGHT)
    found = made(setting.work, row)
    if "refused" in found:
        raise RuntimeError(found["refused"])
    return {**LARGE, "weights": str(Path(found["folder"]) / "weights.safetensors")}, found["test"]


def across(setting: Setting) -> Found:
    """{direction: {"runs": {loss: runs}, "teacher": its test accuracy}}."""
    theirs, accuracy = teacher(setting)
    small = {**SMALL, "width": 8, "depth": 1} if setting.smoke else SMALL
    directions = {
        "transformer → CNN of 5 k": (student(setting, STUDENTS["5 k"]), theirs, "top", "blocks", LONG_LR),
        "CNN → transformer of 32 k": (small, EXAMPLE, "blocks", "top", TRANSFORMER_LR),
    }
    found: Found = {}
    for said, (ours, taught_by, own, other, lr) in directions.items():
        rows = [
            Row(
                name,
                ours,
                setting.data(),
                {"losses": losses, "epochs": 2 * setting.epochs, "lr": lr, "warmup_epochs": 0.4},
                seed,
                taught_by,
            )
            for seed in setting.few_seeds
            for name, losses in arms(own, other).items()
        ]
        runs = grouped(setting, rows)
        found[said] = {"runs": runs, "teacher": next(iter(runs.values()))[0]["teacher"]}
    return {"directions": found, "teacher": accuracy}


def across_page(found: Found, setting: Found) -> list[str]:
    """Both directions as Markdown."""
    lines = [
        "## From one architecture to another",
        "",
        (
            f"10,000 images, {4 * setting['epochs']} passes; test accuracy, and over cross-entropy (95% interval). The transformer that "
            "teaches learned from the labels and from the example's teacher."
        ),
        "",
    ]
    for said, one in found["directions"].items():
        base = one["runs"]["cross_entropy"]
        lines += [f"| {said}; the teacher {one['teacher']:.2f}% | test, % | over cross-entropy |", "|---|---|---|"]
        for name, runs in one["runs"].items():
            over = "" if name == "cross_entropy" else shown(gain(runs, base))
            lines.append(f"| {name} | {spread([run['test'] for run in runs])} | {over} |")
        lines.append("")
    return lines
