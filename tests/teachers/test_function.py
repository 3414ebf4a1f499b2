"""A function as the teacher: arrays in, arrays out."""

import numpy as np
import pytest
import torch

from edgekd.errors import UserError
from edgekd.teachers.function import Function

INPUTS = torch.arange(12, dtype=torch.float32).view(3, 1, 2, 2)


def test_it_is_given_arrays_and_gives_float32_logits() -> None:
    logits = Function(lambda x: x.reshape(len(x), -1)[:, :2].astype(np.float64) * 2).outputs(INPUTS)
    assert logits.tolist() == [[0, 2], [8, 10], [16, 18]]
    assert logits.dtype == torch.float32


def test_what_it_raises_and_other_shapes_are_said() -> None:
    with pytest.raises(UserError, match=r"failed on inputs \[3, 1, 2, 2\]: ZeroDivisionError"):
        Function(lambda x: 1 / 0).outputs(INPUTS)
    with pytest.raises(UserError, match=r"gives \[3, 1, 2, 2\] for inputs"):
        Function(lambda x: x).outputs(INPUTS)
    with pytest.raises(UserError, match="factory returned a int"):
        Function(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Function gives logits only"):
        Function(lambda x: x).features(INPUTS, ["block"])
