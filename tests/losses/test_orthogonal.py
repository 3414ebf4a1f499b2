"""The orthogonal projection: by hand, and that it stays one while it learns."""

import math

import pytest
import torch

from edgekd.losses.orthogonal import Orthogonal

LOSS = Orthogonal(student="block", teacher="layer")


def test_numbers_worked_out_by_hand() -> None:
    """u = [1, 5] has mean 3 and deviation 2: normalised [−1, 1]. Huber of 0.5 is 1/8, of 2 it is 1.5."""
    teacher = torch.tensor([[1.0, 5.0]])
    assert LOSS(torch.tensor([[-0.5, 3.0]]), teacher).item() == pytest.approx((0.125 + 1.5) / 2, rel=1e-4)
    maps = torch.tensor([[[[0.0, 2.0]], [[4.0, 6.0]]]])  # the same means, over two positions
    assert LOSS(torch.tensor([[-0.5, 3.0]]), maps).item() == pytest.approx((0.125 + 1.5) / 2, rel=1e-4)


@pytest.mark.parametrize(("own", "theirs"), [(3, 8), (8, 8), (8, 3)])
def test_the_projection_stays_orthogonal_while_it_learns(own: int, theirs: int) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(16, own, 2, 2), torch.randn(16, theirs)
    projector = LOSS.projector(student, teacher)
    before = LOSS(projector(student), teacher).item()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        LOSS(projector(student), teacher).backward()
        optimizer.step()
    assert LOSS(projector(student), teacher).item() < before
    weight = projector[1].weight.detach()  # type: ignore[index]
    kept = weight.T @ weight if own <= theirs else weight @ weight.T
    torch.testing.assert_close(kept, torch.eye(min(own, theirs)), atol=1e-5, rtol=0)


def test_wider_or_as_wide_it_keeps_all_distances() -> None:
    torch.manual_seed(0)
    student = torch.randn(5, 4)
    projected = LOSS.projector(student, torch.randn(5, 9))(student)
    torch.testing.assert_close(torch.cdist(projected, projected), torch.cdist(student, student))
    assert math.isclose(projected.norm().item(), student.norm().item(), rel_tol=1e-5)
