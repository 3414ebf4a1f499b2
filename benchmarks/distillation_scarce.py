"""Little to learn from, for benchmarks/distillation.py: 1% and 10% of the labels, and no data at all.

The student of the middle on Fashion-MNIST, three seeds. Few labels: 10,000 images, of which the first of each class keep theirs; the
teacher is asked about all. No data: images made up from the teacher alone by a calibration source, whose classes, as the teacher
sees them, choose the epoch; real images serve for the test only.
"""

from __future__ import annotations

from typing import Any

from distillation_fashion import student
from distillation_recipe import CE, EXAMPLE, LONG_LR, WORK, Found, Row, Setting, grouped, write_arrays
from paired import gain, shown, spread
from quantization_recipe import ran

from edgekd import api
from edgekd.pipeline import calibration
from edgekd.store import write_whole
from edgekd.toml import dumps
from edgekd.training.train import logits_of

KL = {"use": "kl", "temperature": 4.0}
SELFMIX = {"mix": "selfmix", "mix_share": 0.5, "views": 1}
FEW: dict[str, Found] = {
    "labels alone": {"losses": [CE]},
    "cross_entropy + kl": {"losses": [CE, KL]},
    "kl": {"losses": [KL]},
    "js (SSLD)": {"losses": [{"use": "js"}]},
    "dual_head (DHO)": {"losses": [{"use": "dual_head"}]},
    "kl, SelfMix": {"losses": [KL], **SELFMIX},
    "label_adapt + kl, SelfMix (FerKD)": {"losses": [{"use": "label_adapt"}, KL], **SELFMIX},
}
SHARES = {"1%": 0.01, "10%": 0.1}
COUNT = 1280
SOURCES: dict[str, Found] = {
    "gaussian": {"source": "gaussian"},
    "bn_statistics": {"source": "bn_statistics", "options": {"steps": 80, "label": 0.1}},
    "genie": {"source": "genie", "options": {"steps": 80, "label": 0.1}},
    "real, unlabelled": {"source": "data"},
}
MADE: Found = {"losses": [KL], "mix": "mixup", "mix_share": 0.5, "views": 8, "epochs": 48, "warmup_epochs": 2.0}


def few_labels(setting: Setting) -> Found:
    """{share of labels: {method: runs}}; "labels alone" repeats what has one, so that all take as many steps."""
    shares = list(SHARES.items())[: 1 if setting.smoke else None]
    found = {}
    for said, share in shares:
        rows = [
            Row(
                name,
                student(setting),
                setting.data(labelled=share, alone=name == "labels alone"),
                {**stage, "epochs": 2 * setting.epochs, "lr": LONG_LR, "warmup_epochs": 0.2},
                seed,
            )
            for seed in setting.few_seeds
            for name, stage in FEW.items()
        ]
        found[said] = grouped(setting, rows)
    return found


def no_data(setting: Setting) -> Found:
    """{"runs": {source: runs}, "seconds": {source: to make the images}}."""
    images = {name: made_by(setting, name) for name in SOURCES}
    judged = setting.data()["judged"] if setting.smoke else 10000
    stage = {**MADE, "epochs": 2} if setting.smoke else MADE
    rows = [
        Row(
            name,
            student(setting),
            {"factory": "distillation_nets:made_up", "file": file, "judged": judged},
            stage,
            seed,
        )
        for seed in setting.few_seeds
        for name, (file, _) in images.items()
    ]
    return {"runs": grouped(setting, rows), "seconds": {name: seconds for name, (_, seconds) in images.items()}}


def made_by(setting: Setting, name: str) -> tuple[str, float]:
    """The file, as `distillation_nets.made_up` finds it, of a source's images with the teacher's classes; the seconds to make them.

    A calibration recipe makes them: the teacher is there the student that is about to be quantized.
    """
    slug = name.replace(", ", "-")
    source = {"count": 160 if setting.smoke else COUNT, "seed": 0, **SOURCES[name]}
    if setting.smoke and "options" in source:
        source["options"] = {**source["options"], "steps": 2}
    folder = setting.work / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    calibrated = folder / f"{slug}-calibration.toml"
    write_whole(calibrated, dumps(source).encode())
    stage = {"use": "quantize", "calibration": calibrated.name, "sensitivity": 0}
    table = {"seed": 0, "student": EXAMPLE, "data": setting.data(copies=1), "stage": [stage]}
    recipe = folder / f"{slug}-images.toml"
    write_whole(recipe, dumps(table).encode())
    plan = api.prepare(recipe, backends=["onnxruntime"], store=setting.work / "store", quiet=True)
    step = calibration.step_of("quantize")
    ran(plan, (step,))
    entry = plan.entries[step]
    file = setting.work / f"{slug}-{entry.key[:8]}.npz"
    if not file.is_file():
        images = calibration.read(entry.path)
        classes = logits_of(plan.student("student").network(), images).argmax(1)
        write_arrays(file, images=images.numpy(), classes=classes.numpy())
    return file.relative_to(WORK).as_posix(), entry.seconds


def few_labels_page(found: Found, setting: Found) -> list[str]:
    """Few labels as Markdown."""
    lines = [
        "## Few labels",
        "",
        (
            f"10,000 images, {4 * setting['epochs']} passes, the teacher of examples/fashion; test accuracy, and over the labels alone "
            "(95% interval)."
        ),
        "",
    ]
    for share, arms in found.items():
        base = arms["labels alone"]
        lines += [f"| {share} of the labels | test, % | over labels alone |", "|---|---|---|"]
        for name, runs in arms.items():
            over = "" if name == "labels alone" else shown(gain(runs, base))
            lines.append(f"| {name} | {spread([run['test'] for run in runs])} | {over} |")
        lines.append("")
    return lines


def no_data_page(found: Found, _setting: Found) -> list[str]:
    """No data as Markdown."""
    runs: dict[str, list[dict[str, Any]]] = found["runs"]
    lines = [
        "## No data",
        "",
        (
            f"{COUNT} images, a fifth of them to choose the epoch by; flipped, shifted, half of them mixed; learned from the teacher's "
            "answers alone. The last row is real images without labels, as many."
        ),
        "",
        "| images | test, % | seconds to make them |",
        "|---|---|---|",
    ]
    for name, each in runs.items():
        lines.append(f"| {name} | {spread([run['test'] for run in each])} | {found['seconds'][name]:.0f} |")
    return [*lines, ""]
