"""Pixels: by hand, what the queue holds, and whom it refuses."""

import math

import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.pixel_contrast import PixelContrast

EAST, NORTH = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])


def image(*pixels: torch.Tensor) -> torch.Tensor:
    """[1, 2, 1, pixels]."""
    return torch.stack(pixels, 1)[None, :, None]


def test_numbers_worked_out_by_hand() -> None:
    """The queue holds north; both pixels of the teacher are east. Scores at τ = 1/2 (own, queue): east (2, 0), north (0, 2)."""
    loss, teacher = PixelContrast(size=1, temperature=0.5), image(EAST, EAST)
    state = loss.state(teacher, teacher, 10).eval()
    state.held.copy_(torch.tensor([[0.0, 1.0]]))
    right, wrong = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    assert loss(image(EAST, EAST), teacher, state=state).item() == pytest.approx(right, rel=1e-6)
    assert loss(image(EAST, NORTH), teacher, state=state).item() == pytest.approx((right + wrong) / 2, rel=1e-6)


def test_the_queue_holds_the_teachers_images_and_only_training_changes_it() -> None:
    loss, teacher = PixelContrast(size=2), image(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]))
    state = loss.state(teacher, teacher, 10)
    before = state.held.clone()
    loss(teacher, teacher, state=state.eval())
    assert torch.equal(state.held, before)
    loss(teacher, teacher, state=state.train())
    torch.testing.assert_close(state.held[0], torch.tensor([math.sqrt(0.5)] * 2))  # its mean, of length one
    assert torch.equal(state.held[1], before[1])


def test_maps_of_two_sizes_are_compared_and_vectors_are_refused() -> None:
    loss = PixelContrast(student="block", teacher="layer", size=4)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 8, 8)
    projected = loss.projector(student, teacher)(student)
    assert projected.shape == (2, 6, 4, 4)
    assert loss(projected, teacher, state=loss.state(student, teacher, 1)).isfinite()
    with pytest.raises(UserError, match=r'pixel_contrast: the student\'s "block" gives \[2, 3\]') as caught:
        loss.projector(torch.zeros(2, 3), teacher)
    assert "before the pooling" in caught.value.hint
