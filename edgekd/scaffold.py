"""`edgekd new NAME`: a commented recipe and a Python file that run as they are, to start from."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from edgekd.errors import UserError

RECIPE = """\
# What edgekd should make of your network. Check it: edgekd plan recipe.toml. Run it: edgekd compile recipe.toml
# Paths are relative to this file. `edgekd list losses` (criteria, observers, ...) shows what can be named.

seed = 0

[student]
factory = "{module}:student"        # the network to ship; further keys are arguments of the function
width = 16
# weights = "student.safetensors"   # if it is trained already

[teacher]
factory = "{module}:teacher"        # the network to learn from
# weights = "teacher.safetensors"   # yours; without weights a random teacher teaches nothing

[data]
factory = "{module}:data"
metric = "accuracy"                 # or "{module}:score", a function of (outputs, targets)

[[stage]]                           # train the student to answer as the teacher does
use = "distill"
losses = [{{ use = "cross_entropy", weight = 0.5 }}, {{ use = "kl", temperature = 4.0, weight = 0.5 }}]
epochs = 3

[[stage]]                           # remove channels that the teacher's answers do not need
use = "prune"
criterion = "teacher_gap"
ratio = 0.25
epochs = 1

[[stage]]                           # int8, trained to be robust to rounding
use = "quantize"
calibration = "train-128"
qat = {{ epochs = 1, losses = [{{ use = "kl", temperature = 2.0 }}] }}

[targets]                           # every runtime races that is installed and that the target has; or say which
names = ["host"]
# backends = ["onnxruntime"]

[budget]                            # what the chosen engine must keep
metric_drop = 0.02
# latency_p90 = "0.5 ms"
# size = "200 kB"
# memory = "60 MB"                  # of the process, its runtime included
# cold_start = "50 ms"
"""

MODULE = '''\
"""What edgekd needs of you: a student, a teacher and data. Replace each with yours."""

import torch
from torch import nn

import edgekd


def network(width: int) -> nn.Module:
    """images [batch, 1, 16, 16] -> logits [batch, 4]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4),
    )


def student(width: int = 16) -> nn.Module:
    return network(width)


def teacher() -> nn.Module:
    return network(48)


def data() -> edgekd.Dataset:
    """Which quarter of the image is bright: made up, so that this runs before you bring your own."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = torch.randint(0, 4, (count,), generator=generator)
        images = torch.randn(count, 1, 16, 16, generator=generator)
        for i, quarter in enumerate(targets.tolist()):
            row, column = 8 * (quarter // 2), 8 * (quarter % 2)
            images[i, :, row : row + 8, column : column + 8] += 0.7
        return images, targets

    return edgekd.Dataset(split(1024), split(256), split(256), labels=("upper left", "upper right", "lower left", "lower right"))
'''


def write_project(folder: Path) -> list[Path]:
    """Make `folder` with recipe.toml and a module of its name. Raises UserError if it exists or is no name for a module."""
    module = folder.name.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z_]\w*", module):
        raise UserError(f'"{folder.name}" cannot name a Python module', hint="letters, digits and _, no digit first")
    if folder.exists():
        raise UserError(f"{folder} exists", hint="choose another name, or remove it")
    if keyword.iskeyword(module) or find_spec(module) is not None:
        raise UserError(f'"{module}" is a Python word, or a module that is installed', hint="choose another name")
    try:
        folder.mkdir(parents=True)
        files = {folder / "recipe.toml": RECIPE.format(module=module), folder / f"{module}.py": MODULE}
        for path, text in files.items():
            path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    return list(files)
