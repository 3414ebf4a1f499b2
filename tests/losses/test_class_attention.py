"""Class attention: by hand, what it is blind to, and whom it refuses."""

import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.class_attention import ClassAttention


def test_numbers_worked_out_by_hand() -> None:
    """Class 0: [1, 0, 0, 0] against [0, 3, 0, 0]: (1 + 1) / 4. Class 1: alike but for its length: 0."""
    student = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]]])
    teacher = torch.tensor([[[[0.0, 3.0], [0.0, 0.0]], [[2.0, 4.0], [6.0, 8.0]]]])
    assert ClassAttention()(student, teacher).item() == pytest.approx(0.5)


def test_maps_of_other_sizes_are_averaged_down() -> None:
    torch.manual_seed(0)
    small = torch.randn(2, 3, 2, 2)
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert ClassAttention()(large, small).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 3)])
def test_other_features_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="class_attention: the student's") as caught:
        ClassAttention()(torch.zeros(shape), torch.zeros(2, 3, 4, 4))
    assert "before the pooling" in caught.value.hint
