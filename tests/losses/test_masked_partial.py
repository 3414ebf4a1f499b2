"""Masked inputs: by hand, which patches are hidden, and that neither statistics nor later layers notice."""

import math
from typing import Any

import pytest
import torch
from tiny import tiny_data, tiny_student
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.masked_partial import MaskedPartial
from edgekd.stage import uses
from edgekd.teachers.module import Module
from edgekd.training.compared import Masked
from edgekd.training.objective import Objective

INPUTS, TARGETS = (x[:8] for x in tiny_data().train)


class Stub(nn.Module):
    """A decoder that makes a given image, and a projector that changes nothing."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.image, self.project = image, nn.Identity()

    def image_of(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return self.image


def test_numbers_worked_out_by_hand() -> None:
    """A row of four pixels (1, 2, 3, 4), the last two hidden; all made up as 2: (1 + 4) / 2 = 2.5.

    Features at two positions, (1, 0) and (0, 1) against (0, 7) and (0, 1): by length, |(1, −1)| / 2 = 1 and 0; the first is seen
    whole, the second not at all: 1. With `align` 0.5: 2.5 + 0.5.
    """
    image = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    hidden = torch.tensor([[[[False, False, True, True]]]])
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    teacher = Masked(torch.tensor([[[[0.0, 0.0]], [[7.0, 1.0]]]]), image, hidden)
    loss: Any = MaskedPartial(align=0.5)
    assert loss(student, teacher, state=Stub(torch.full_like(image, 2.0))).item() == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize(("size", "patch", "hidden"), [((12, 12), 4, 7), ((10, 7), 4, 4), ((5, 5), 3, 3)])
def test_whole_patches_are_hidden_as_many_of_each_image(size: tuple[int, int], patch: int, hidden: int) -> None:
    """Three quarters of 3 × 3, of 3 × 2 (4.5 rounds to even), of 2 × 2 patches; the last ones may be smaller."""
    torch.manual_seed(0)
    mask = MaskedPartial(patch=patch).mask(torch.zeros(16, 3, *size))
    assert mask.shape == (16, 1, *size)
    rows, columns = (math.ceil(side / patch) for side in size)
    patches = torch.stack([mask[:, 0, i * patch, j * patch] for i in range(rows) for j in range(columns)], 1)
    assert (patches.sum(1) == hidden).all()
    again = patches.view(16, rows, columns).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    assert torch.equal(again[:, : size[0], : size[1]], mask[:, 0])
    assert len(patches.unique(dim=0)) > 1
    torch.manual_seed(0)
    assert torch.equal(MaskedPartial(patch=patch).mask(torch.zeros(16, 3, *size)), mask)


def test_neither_statistics_nor_what_lies_behind_the_modules_notice() -> None:
    """The networks are called once more with zeros in their inputs; the head is not, and batch norm forgets it."""
    student, teacher = tiny_student(), tiny_student(16, 7)
    objective = Objective(
        uses([{"use": "masked_partial", "student": "block", "teacher": "block"}], "losses"), lambda: Module(teacher)
    )
    objective.prepare(student.eval(), INPUTS, TARGETS, 0)
    plain = tiny_student()
    plain.train()(INPUTS)
    student.train()
    seen: list[int] = []
    for network in (student, teacher):
        network.head.register_forward_hook(lambda *_: seen.append(1))
        network.stem.register_forward_hook(lambda *_: seen.append(100))
    objective(student, INPUTS, TARGETS)["masked_partial"].backward()
    assert sum(seen) == 301  # the student whole, then both up to their blocks
    assert all(torch.equal(a, b) for a, b in zip(student.buffers(), plain.buffers(), strict=True))
    assert student.stem[0].weight.grad.abs().sum() > 0
    assert student.head.weight.grad is None


@pytest.mark.parametrize("shapes", [((2, 6, 7, 7), (2, 9, 14, 14)), ((2, 17, 6), (2, 17, 9)), ((2, 16, 6), (2, 16, 9))])
def test_maps_and_tokens_make_images(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Tokens with a class token before them and without; pixels that are no multiple of the features' size."""
    torch.manual_seed(0)
    loss, image = MaskedPartial(), torch.randn(2, 3, 18, 18)
    student = torch.randn(shapes[0], requires_grad=True)
    compared = Masked(torch.randn(shapes[1]), image, loss.mask(image))
    loss(student, compared, state=loss.state(student, compared, 10)).backward()
    assert student.grad.abs().sum() > 0


def test_what_is_no_image_is_refused() -> None:
    for wrong in (torch.zeros(2, 5), torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 8, 8, dtype=torch.int64)):
        with pytest.raises(UserError, match="masked_partial: inputs .* have no patches of 4\nhint: float images"):
            MaskedPartial().mask(wrong)
    student, image = torch.zeros(2, 7, 6), torch.zeros(2, 1, 8, 8)
    loss = MaskedPartial(student="block")
    with pytest.raises(UserError, match=r'"block" or "" gives \[2, 7, 6\], which is no grid'):
        loss.state(student, Masked(student, image, loss.mask(image)), 10)
