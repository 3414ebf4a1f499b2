"""Checkpoints: whole or not at all."""

from pathlib import Path

import pytest
import torch

from edgekd.training import checkpoint

TENSORS = {
    "weight": torch.randn(3, 2, 4, 4).to(memory_format=torch.channels_last),
    "step": torch.tensor(7.0),
    "count": torch.tensor([1, 2]),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "nothing": torch.empty(0),
}
FACTS = {"epochs": [{"loss": 0.1}], "origin": "é"}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "c", TENSORS, FACTS)
    found = checkpoint.read(tmp_path / "c")
    assert found is not None
    assert found[1] == FACTS
    assert found[0].keys() == TENSORS.keys()
    assert all(torch.equal(found[0][name], value) for name, value in TENSORS.items())
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_tensors_that_share_memory_are_written_each_for_itself(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    checkpoint.write(tmp_path / "c", {"a": whole, "b": whole, "c": whole[1:3]}, {})
    found = checkpoint.read(tmp_path / "c")
    assert found is not None
    assert found[0]["c"].tolist() == [1, 2]


def test_the_same_values_are_the_same_bytes() -> None:
    turned = dict(reversed(TENSORS.items()))
    assert checkpoint.encode(TENSORS, FACTS) == checkpoint.encode(turned, dict(reversed(FACTS.items())))


@pytest.mark.parametrize("where", [0, 31, 40, 200, -1])
def test_one_flipped_byte_is_noticed(tmp_path: Path, where: int) -> None:
    content = bytearray(checkpoint.encode(TENSORS, FACTS))
    content[where] ^= 1
    (tmp_path / "c").write_bytes(content)
    assert checkpoint.read(tmp_path / "c") is None


@pytest.mark.parametrize("size", [0, 10, 32, 100, -1])
def test_a_missing_or_a_cut_file_is_none(tmp_path: Path, size: int) -> None:
    assert checkpoint.read(tmp_path / "none") is None
    (tmp_path / "c").write_bytes(checkpoint.encode(TENSORS, FACTS)[:size])
    assert checkpoint.read(tmp_path / "c") is None
