"""What every calibration source of the registry must do; a new file is tested by existing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_data

from edgekd import registry
from edgekd.errors import UserError
from tests.sources.given import forbidden, given, inputs

SOURCES = registry.names("sources")
SYNTHETIC = [name for name in SOURCES if registry.find("sources", name).synthetic]


@pytest.mark.parametrize("source", SOURCES)
def test_inputs_are_finite_and_follow_from_the_seed(tmp_path: Path, source: str) -> None:
    first = inputs(source, tmp_path / "a")
    assert first.shape == (20, 1, 12, 12) and first.dtype == torch.float32
    assert bool(torch.isfinite(first).all()) and not first.requires_grad
    assert len({x.numpy().tobytes() for x in first}) == 20
    assert torch.equal(first, inputs(source, tmp_path / "b"))
    assert not torch.equal(first, inputs(source, tmp_path / "c", seed=1))


def test_the_zero_shot_sources_are_these() -> None:
    assert set(SYNTHETIC) == {"bn_statistics", "gaussian", "genie", "teacher"}


@pytest.mark.parametrize("source", SYNTHETIC)
def test_synthetic_sources_read_no_data(tmp_path: Path, source: str) -> None:
    assert len(inputs(source, tmp_path, around=given(tmp_path, data=forbidden))) == 20


@pytest.mark.parametrize(
    "source", [name for name in SOURCES if name not in SYNTHETIC and name not in ("images", "npz")]
)
def test_samples_are_those_of_the_split(tmp_path: Path, source: str) -> None:
    drawn = inputs(source, tmp_path, split="validation")
    known = {x.numpy().tobytes() for x in tiny_data().validation[0]}
    assert {x.numpy().tobytes() for x in drawn} <= known
    with pytest.raises(UserError, match='reads split "test"'):
        inputs(source, tmp_path, split="test")


@pytest.mark.parametrize("source", ["data", "coreset", "images", "npz"])
def test_more_than_there_is_gives_what_there_is(tmp_path: Path, source: str) -> None:
    there = {"data": 256, "coreset": 256}.get(source, 24)
    found = inputs(source, tmp_path, count=1000)
    assert len(found) == there
    assert len({x.numpy().tobytes() for x in found}) == there


@pytest.mark.parametrize("source", SOURCES)
def test_a_path_is_for_those_that_read_one(tmp_path: Path, source: str) -> None:
    if registry.find("sources", source).reads_path:
        with pytest.raises(UserError, match=f'source "{source}" needs a `path`'):
            inputs(source, tmp_path, path="")
    else:
        with pytest.raises(UserError, match=f'source "{source}" reads no `path`'):
            inputs(source, tmp_path, path=str(tmp_path))
