"""Calibration sources: the same samples for the same seed, and never the test split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_data, tiny_saved

from edgekd import registry
from edgekd.errors import UserError
from edgekd.target import Calibration


def inputs(tmp_path: Path, source: str, **changed: object) -> torch.Tensor:
    folder = tmp_path / "student"
    folder.mkdir(exist_ok=True)
    recipe = Calibration.model_validate({"name": "x", "source": source, "count": 32, **changed})
    found: torch.Tensor = registry.build("sources", source, {}).inputs(tiny_saved(folder), tiny_data, recipe)
    return found


@pytest.mark.parametrize("source", registry.names("sources"))
def test_every_source_keeps_the_contract(tmp_path: Path, source: str) -> None:
    first = inputs(tmp_path, source)
    assert first.shape == (32, 1, 12, 12) and first.dtype == torch.float32
    assert torch.equal(first, inputs(tmp_path, source))
    assert not torch.equal(first, inputs(tmp_path, source, seed=1))


def test_data_draws_from_its_split(tmp_path: Path) -> None:
    drawn, (train, _) = inputs(tmp_path, "data"), tiny_data().train
    assert all(any(torch.equal(x, y) for y in train) for x in drawn)
    assert len({x.numpy().tobytes() for x in drawn}) == 32
    with pytest.raises(UserError, match='reads split "test"'):
        inputs(tmp_path, "data", split="test")
