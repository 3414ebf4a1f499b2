"""Outputs from a file, found by the content of the sample."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.errors import UserError
from edgekd.teachers.outputs import Outputs

INPUTS = np.random.default_rng(0).normal(size=(5, 1, 3, 3)).astype(np.float32)
LOGITS = np.random.default_rng(1).normal(size=(5, 4))


def held(folder: Path, **arrays: Any) -> Outputs:
    np.savez(folder / "t.npz", **arrays)
    return Outputs(folder / "t.npz")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_each_sample_finds_its_own_in_any_order(tmp_path: Path, dtype: type) -> None:
    logits = held(tmp_path, inputs=INPUTS, logits=LOGITS.astype(dtype)).outputs(torch.from_numpy(INPUTS[[3, 0, 3]]))
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits.numpy(), LOGITS[[3, 0, 3]], rtol=2e-3, atol=1e-3)


def test_the_surest_classes_leave_the_rest_to_the_others(tmp_path: Path) -> None:
    """Of five classes two are known, 0.6 and 0.1: the other three share 0.3. A second sample's two have it all."""
    indices, known = np.array([[4, 1], [0, 2]]), np.array([[0.6, 0.1], [0.75, 0.25]])
    teacher = held(tmp_path, inputs=INPUTS[:2], indices=indices, probabilities=known, classes=5)
    found = teacher.outputs(torch.from_numpy(INPUTS[:2])).softmax(1)
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6]))
    torch.testing.assert_close(found[1], torch.tensor([0.75, 0, 0.25, 0, 0]))
    assert math.isfinite(teacher.outputs(torch.from_numpy(INPUTS[:2])).min())


def test_a_sample_that_is_not_there_is_said(tmp_path: Path) -> None:
    teacher = held(tmp_path, inputs=INPUTS, logits=LOGITS)
    other = torch.from_numpy(INPUTS[:2].copy())
    other[1, 0, 0, 0] += 1e-6
    with pytest.raises(UserError, match="no output for sample 1 of a batch of 2"):
        teacher.outputs(other)
    with pytest.raises(UserError, match="no output for sample 0"):
        teacher.outputs(torch.from_numpy(INPUTS).double())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"inputs": INPUTS}, "holds inputs"),
        ({"inputs": INPUTS, "logits": LOGITS[:4]}, "holds inputs"),
        ({"inputs": INPUTS, "logits": np.array([None])}, "not an .npz file of arrays"),
        (
            {"inputs": INPUTS, "indices": np.full((5, 2), 7), "probabilities": np.full((5, 2), 0.1), "classes": 4},
            "do not fit",
        ),
        (
            {"inputs": INPUTS, "indices": np.zeros((5, 2), int), "probabilities": np.ones((5, 2)), "classes": 4},
            "do not fit",
        ),
    ],
)
def test_another_file_is_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        held(tmp_path, **arrays).outputs(torch.from_numpy(INPUTS))


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    teacher = held(tmp_path, inputs=INPUTS, logits=LOGITS)
    teacher.file.write_bytes(teacher.file.read_bytes()[:200])
    with pytest.raises(UserError, match="not an .npz file of arrays"):
        teacher.outputs(torch.from_numpy(INPUTS))
