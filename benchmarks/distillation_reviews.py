"""A classifier of reviews on MiniLM, and its data, for benchmarks/distillation_text.py: what its recipes name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from quantization_text import WIDTH, MiniLm
from torch import nn

import edgekd

WORK = Path(__file__).resolve().parent.parent / "out" / "benchmark-distillation"
TRAIN, VALIDATION, TEST = 2400, 500, 1000


class Reviewer(nn.Module):
    """ids [n, 64], 0 being padding → logits [n, 2]."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.encoder = MiniLm()
        self.encoder.layers = self.encoder.layers[:layers]
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(ids) * WIDTH**0.5)  # embeddings have length one


def reviewer(layers: int) -> nn.Module:
    return Reviewer(layers)


def data(file: str) -> edgekd.Dataset:
    """ids and classes; the last `VALIDATION` + `TEST` rows, or in a small file as large a share, are not trained on."""
    with np.load(WORK / file, allow_pickle=False) as stored:
        ids, labels = torch.from_numpy(stored["ids"]), torch.from_numpy(stored["labels"])
    whole = TRAIN + VALIDATION + TEST
    cuts = [len(ids) * part // whole for part in (TRAIN, TRAIN + VALIDATION)]
    parts = (slice(0, cuts[0]), slice(*cuts), slice(cuts[1], None))
    train, validation, test = ((ids[part], labels[part]) for part in parts)
    return edgekd.Dataset(train, validation, test, labels=("negative", "positive"))
