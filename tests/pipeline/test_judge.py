"""What a network's outputs are worth, split by split."""

import numpy as np
import torch

from edgekd.data import Dataset
from edgekd.metric import accuracy
from edgekd.pipeline.judge import scores

OUTPUTS = {"validation": np.array([[2.0, 1.0]]), "test": np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0]])}


def data(test: torch.Tensor) -> Dataset:
    inputs, targets = torch.zeros(1, 1), torch.zeros(1, dtype=test.dtype)
    return Dataset((inputs, targets), (inputs, targets), (torch.zeros(3, 1), test))


def test_right_is_a_bit_for_each_test_sample() -> None:
    found = scores(OUTPUTS, data(torch.tensor([0, 0, 1])), accuracy, None)
    assert (found["right"], found["metric"]) == (
        "a0",
        {"validation": 1.0, "test": 2 / 3},
    )  # 101, filled up to 1010 0000


def test_what_is_a_number_is_neither_right_nor_wrong() -> None:
    for targets in (torch.tensor([0.0, 1.0, 1.0]), torch.zeros(3, 2)):
        found = scores(OUTPUTS, data(targets), lambda outputs, targets: -float(np.abs(outputs).max()), None)
        assert (found["right"], found["metric"]["test"]) == (None, -3.0)
