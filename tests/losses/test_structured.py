"""Structure within a layer and between layers: by hand, against loops, and who is refused."""

from typing import Any

import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.structured import Structured


def test_structure_within_a_layer_by_hand() -> None:
    """Two positions: (1, 0) against (0, 1) is 1, (3, 4) against (6, 8) is 0: the mean is 1/2. The other layer is alike."""
    student = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])
    teacher = torch.tensor([[[[0.0, 6.0]], [[1.0, 8.0]]]])
    other = torch.ones(1, 2, 1, 2)
    found = Structured(inter=0.0)([student, other], [teacher, other])
    assert found.item() == pytest.approx((0.5 + 0) / 2, rel=1e-6)


def test_structure_between_layers_by_hand() -> None:
    """One channel, two positions: (1, 3) is (−1, 1), (2, 1) is (1, −1): G = −1. Of the teacher (1, 3) and (1, 2): G' = 1."""
    student = [torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, 1.0]]]])]
    teacher = [torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[1.0, 2.0]]]])]
    assert Structured(intra=0.0)(student, teacher).item() == pytest.approx(4, rel=1e-3)  # up to the norm's 1e-5


def test_relations_against_loops() -> None:
    """Three layers of two sizes, brought to the smaller by maxima of 2 × 2."""
    torch.manual_seed(0)
    layers = [[torch.randn(2, c, n, n) for c, n in ((3, 4), (4, 2), (2, 2))] for _ in range(2)]
    small = [[x if x.shape[2] == 2 else x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)) for x in one] for one in layers]
    expected = 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        grams = []
        for one in small:
            a, b = (x.flatten(2) - x.flatten(2).mean(2, keepdim=True) for x in (one[i], one[j]))
            a, b = (x / (x.square().mean(2, keepdim=True) + 1e-5).sqrt() for x in (a, b))
            grams.append(torch.einsum("nap,nbp->nab", a, b) / 4)
        expected += float((grams[0] - grams[1]).square().mean()) / 3
    assert Structured(intra=0.0)(*layers).item() == pytest.approx(expected, rel=1e-5)


def test_each_layer_has_a_projector() -> None:
    student, teacher = (
        [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)],
        [torch.randn(2, 6, 8, 8), torch.randn(2, 7, 2, 2)],
    )
    loss = Structured(student=("a", "b"), teacher=("x", "y"))
    projected = loss.projector(student, teacher)(student)
    assert [list(x.shape) for x in projected] == [[2, 6, 4, 4], [2, 7, 2, 2]]
    assert torch.isfinite(loss(projected, teacher))


@pytest.mark.parametrize("names", [{"student": ("a",)}, {"student": ("a", "b"), "teacher": ("x", "y", "z")}])
def test_other_numbers_of_modules_are_refused(names: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="structured: student names .*\nhint: as many of both"):
        Structured(**names)


def test_anything_but_maps_is_refused() -> None:
    loss = Structured(student=("a", "b"), teacher=("x", "y"))
    vectors = [torch.zeros(2, 3), torch.zeros(2, 4)]
    with pytest.raises(UserError, match=r'structured: the student\'s "a" gives \[2, 3\], "b" gives \[2, 4\]'):
        loss.projector(vectors, vectors)
