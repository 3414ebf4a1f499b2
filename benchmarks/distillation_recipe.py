"""Rows of benchmarks/distillation.py: each a recipe that is written, made or taken from the store, and read; several at once."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from quantization_recipe import ran

from edgekd import api, digest
from edgekd.errors import EdgekdError, StoreError
from edgekd.store import write_whole
from edgekd.toml import dumps

ROOT = Path(__file__).resolve().parent.parent
FASHION = ROOT / "examples" / "fashion"
WORK = ROOT / "out" / "benchmark-distillation"
EXAMPLE = {"factory": "fashion:teacher", "weights": str(FASHION / "teacher.safetensors")}
"""The teacher of examples/fashion."""
CE = {"use": "cross_entropy"}
SHORT_LR, LONG_LR = 0.024, 0.012
"""Learning rates of a few hundred steps and of more, for all losses alike: chosen by cross-entropy alone, on validation, of 3, 6, 12
and 24 thousandths (83.7, 85.1, 85.6, 85.7% in the short training, 90.5, 90.7, 91.2, 90.7% in the final one). With 3 thousandths, not
enough for so few steps, losses seemed apart that differ in the size of their gradients: kl then lay 3.2 points below cross-entropy."""
Found = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all parts share: where results are kept, how many processes, for how long is trained."""

    work: Path
    jobs: int = 2
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int = 2
    full_epochs: int = 2
    best: int = 5
    tuned: int = 8
    budget: int = 30
    members: int = 2
    only: tuple[str, ...] = ()
    smoke: bool = False

    @property
    def few_seeds(self) -> tuple[int, ...]:
        """Of the parts that no bar names."""
        return self.seeds[:3]

    def data(self, full: bool = False, **more: Any) -> Found:
        """The recipe's [data]: the 10,000 images of the short trainings, or all 55,000."""
        size = {"count": 400, "judged": 500} if self.smoke else {"count": 55000 if full else 10000}
        return {"factory": "distillation_nets:data", **size, **more}


@dataclass(frozen=True)
class Row:
    """Who learns from whom, on what and how: sections of a recipe, and the fields of its one stage."""

    name: str
    student: Found
    data: Found
    stage: Found
    seed: int = 0
    teacher: Found = field(default_factory=lambda: EXAMPLE)
    judged: bool = True
    """Whether the test split is read."""


def made(work: Path, row: Row) -> Found:
    """{"validation" in percent, "seconds", "folder" of the student, where it is judged "test", "teacher", "parameters", "outputs"}.

    From the store if it is there. {"refused": why} for losses that do not fit, or do not stay finite.
    """
    teacher = {"teacher": row.teacher} if row.teacher else {}
    table = {"seed": row.seed, "student": row.student, **teacher, "data": row.data}
    table["stage"] = [{"use": "distill", **row.stage}]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{row.name} {row.seed}".lower())
    path = work / "recipes" / f"{slug}-{digest.of_json(table)[:8]}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dumps(table).encode())
    try:
        plan = api.prepare(path, backends=["onnxruntime"], store=work / "store", quiet=True)
        ran(plan, ("student", "distill", *(("judge distill",) if row.judged else ())))
    except StoreError:
        raise
    except EdgekdError as error:
        print(f"{row.name}, seed {row.seed}: {error.message}", flush=True)
        return {"refused": error.message.partition("\n")[0]}
    stage = plan.entries["distill"]
    history = stage.facts["epochs"]
    found = {
        "validation": 100 * history[stage.facts["best"]]["validation"],
        "seconds": stage.seconds,
        "folder": str(stage.path),
        **({"auto": stage.facts["auto"]} if "auto" in stage.facts else {}),
    }
    if row.judged:
        judge = plan.entries["judge distill"]
        found |= {"test": 100 * judge.facts["metric"]["test"], "parameters": judge.facts["parameters"]}
        found["outputs"] = str(judge.path / "outputs.npz")
        if row.teacher:
            found["teacher"] = 100 * plan.entries["judge teacher"].facts["metric"]["test"]
    shown = ", ".join(f"{split} {found[split]:.2f}" for split in ("validation", "test") if split in found)
    print(f"{row.name}, seed {row.seed}: {shown}", flush=True)
    return found


def several(setting: Setting, rows: Sequence[Row]) -> list[Found]:
    """What `made` finds of each, in order; as many at once as the setting says, each with its share of the cores."""
    if setting.jobs == 1 or len(rows) < 2:
        return [made(setting.work, row) for row in rows]
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // setting.jobs, 1))  # read as the others start
    with ProcessPoolExecutor(setting.jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(partial(made, setting.work), rows))


def grouped(setting: Setting, rows: Sequence[Row]) -> dict[str, list[Found]]:
    """`several` by name: what each seed of a row found, without the rows that were refused."""
    found: dict[str, list[Found]] = {}
    for row, one in zip(rows, several(setting, rows), strict=True):
        if "refused" not in one:
            found.setdefault(row.name, []).append({"seed": row.seed, **told(one)})
    return found


def told(found: Found) -> Found:
    """What is published of a row: nothing of where it lies."""
    return {key: value for key, value in found.items() if key not in ("folder", "outputs")}


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An .npz file, whole or not at all."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # numpy types its keyword arguments as bool
    write_whole(path, content.getvalue())
