"""The ladder of projectors: by hand, and against the sum of its rungs."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, gelu, smooth_l1_loss

from edgekd.errors import UserError
from edgekd.losses.ladder import Ladder


class Says(nn.Module):
    """Rungs whose sum is the same, whatever they are given."""

    def __init__(self, *said: list[float]) -> None:
        super().__init__()
        self.said = torch.tensor([said])

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.said


def test_numbers_worked_out_by_hand() -> None:
    """(3, 0) against (0, 4): cosine 0, so 1/2; Huber 2.5 and 3.5, mean 3, half of it 1.5: together 2.

    Tokens (0, 4), (0, 4): the ladder says (3, 0) and (0, 4) of the positions: (2 + 0) / 2; of their mean (0, 4) it says (0, 4): 0.
    """
    student = [torch.zeros(1, 5)]
    state = nn.ModuleList([Says([9.0, 9.0]), Says([3.0, 0.0])])
    assert Ladder()(student, torch.tensor([[0.0, 4.0]]), state=state).item() == pytest.approx(2, rel=1e-6)
    state = nn.ModuleList([Says([3.0, 0.0], [0.0, 4.0]), Says([0.0, 4.0])])
    tokens = torch.tensor([[[0.0, 4.0], [0.0, 4.0]]])
    assert Ladder()([torch.zeros(1, 2, 5)], tokens, state=state).item() == pytest.approx(0.5, rel=1e-6)


def test_all_depths_reach_for_the_teachers_last() -> None:
    """Maps of two sizes, brought to the teacher's; each rung's weights are read, and the sum written out."""
    torch.manual_seed(0)
    student = [torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, 2, 2, requires_grad=True)]
    teacher = torch.randn(2, 6, 2, 2)
    loss = Ladder(hidden=7)
    state = loss.state(student, teacher, 10)
    found = loss(student, teacher, state=state)
    small = [student[0].unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), student[1]]
    expected = torch.zeros(())
    for rungs, features, target in (
        (state[0], [x.flatten(2).mT for x in small], teacher.flatten(2).mT),
        (state[1], [x.mean((2, 3))[:, None] for x in student], teacher.mean((2, 3))[:, None]),
    ):
        total = torch.zeros_like(target)
        for (first, _, last), x in zip(rungs.rungs, features, strict=True):
            total = total + gelu(x @ first.weight.T + first.bias) @ last.weight.T + last.bias
        apart = 0.5 * (1 - cosine_similarity(total, target, dim=2).mean()) + 0.5 * smooth_l1_loss(total, target)
        expected = expected + apart / 2
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(x.grad.abs().sum() > 0 for x in student)


def test_tokens_of_other_numbers_are_refused() -> None:
    loss, student, teacher = Ladder(), [torch.zeros(1, 9, 5)], torch.zeros(1, 4, 2)
    with pytest.raises(
        UserError, match=r"the student gives \[1, 9, 5\], the teacher \[1, 4, 2\]: they have other positions"
    ):
        loss(student, teacher, state=loss.state(student, teacher, 10))
