"""Judging a network in torch: its outputs on validation and test, the metric, agreement with the teacher, its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekd.metric import agreement
from edgekd.pipeline import onnx_teacher, teachers
from edgekd.teacher import Teacher
from edgekd.training.train import logits_of

if TYPE_CHECKING:
    from edgekd.data import Dataset
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.step import Version

JUDGED = ("validation", "test")


def judged_network(plan: Plan, version: Version, kind: str) -> tuple[nn.Module, Mapping[str, int | None]]:
    """What computes a version's outputs ("network", "fake-quantized" or "program"), and of a network its size."""
    if version.is_file or version.black_box:
        file = plan.entry(version.name).path / onnx_teacher.FILE
        size_of_file = onnx_teacher.size(file) if file.is_file() else dict.fromkeys(("parameters", "macs", "bytes"))
        return teachers.BlackBox(plan.roots.teacher(file.parent)), size_of_file
    student = plan.student(version.name)
    module = student.fake_quantized() if kind == "fake-quantized" else student.module()
    return module, size(module, student.example()) if kind == "network" else {}


def judge(
    out: Path,
    module: nn.Module,
    data: Dataset,
    metric: Callable[[np.ndarray, np.ndarray], float],
    teacher: Mapping[str, np.ndarray] | None,
) -> dict[str, Any]:
    """Write `outputs.npz` (split -> logits [n, classes]) and return metric and agreement by split."""
    batch = module.teacher.chunk if isinstance(module, teachers.BlackBox) else Teacher.chunk
    outputs = {split: logits_of(module, data.split(split)[0], batch).numpy() for split in JUDGED}
    np.savez(out / "outputs.npz", **outputs)  # type: ignore[arg-type]  # numpy types its keyword arguments as bool
    return scores(outputs, data, metric, teacher)


def scores(
    outputs: Mapping[str, np.ndarray],
    data: Dataset,
    metric: Callable[[np.ndarray, np.ndarray], float],
    teacher: Mapping[str, np.ndarray] | None,
) -> dict[str, Any]:
    """Metric and agreement with the teacher's outputs, for each split; `right`, a bit for each test sample, as hex.

    Where targets are numbers, no sample is right or wrong: None.
    """
    targets = data.test[1].numpy()
    right = None if targets.dtype.kind == "f" else np.packbits(outputs["test"].argmax(1) == targets).tobytes().hex()
    return {
        "right": right,
        "metric": {split: metric(o, data.split(split)[1].numpy()) for split, o in outputs.items()},
        "agreement": {split: agreement(o, teacher[split]) for split, o in outputs.items()} if teacher else None,
    }


def size(network: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Parameters, multiply-accumulates of one sample, and bytes of the float32 weights."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(example)
    parameters = sum(p.numel() for p in network.parameters())
    stored = parameters + sum(b.numel() for b in network.buffers() if b.is_floating_point())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2, "bytes": 4 * stored}


def read_outputs(folder: Path) -> dict[str, np.ndarray]:
    """What `judge` wrote."""
    with np.load(folder / "outputs.npz", allow_pickle=False) as stored:
        return {split: stored[split] for split in JUDGED}
