"""The cross-attention projector and its two views: by hand, against a cosine transform, and against loops."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import softmax

from edgekd.errors import UserError
from edgekd.losses.cross_attention import CrossAttention, _varied


class Says(nn.Module):
    """A projector that gives the same, whatever it is given."""

    def __init__(self, said: list[list[float]]) -> None:
        super().__init__()
        self.said = torch.tensor([said])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.said


def test_numbers_worked_out_by_hand() -> None:
    """Two positions t = (3, 0), (0, 4), so (1, 0), (0, 1) by length.

    Whole: (0, 5), (0, 2) is (0, 1), (0, 1): distances 2 and 0, mean 1.
    Details: t without its mean (1.5, 2) is ±(1.5, −2), by length ±(0.6, −0.8); (4, 1), (0, 1) without (2, 1) is ±(2, 0), so ±(1, 0):
    each 0.4² + 0.8² = 0.8. Together 1 + 0.5 · 0.8.
    """
    teacher = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    state = nn.ModuleList([Says([[0.0, 5.0], [0.0, 2.0]]), Says([[4.0, 1.0], [0.0, 1.0]])])
    assert CrossAttention(details=0.5)(teacher, teacher, state=state).item() == pytest.approx(1.4, rel=1e-6)


def test_the_second_view_lacks_the_lowest_coefficient_of_a_cosine_transform() -> None:
    """The paper's words, with the matrix of the transform of type II written out, there and back."""
    maps = np.random.default_rng(0).normal(size=(3, 4, 5))
    down, across = (np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5)) for n in maps.shape[1:])
    coefficients = down @ maps @ across.T
    coefficients[:, 0, 0] = 0
    back = np.linalg.inv(down) @ coefficients @ np.linalg.inv(across).T
    tokens = torch.from_numpy(maps).flatten(1).T[None]
    np.testing.assert_allclose(_varied(tokens)[0].T.reshape(3, 4, 5), back, atol=1e-12)


def test_the_projector_against_attention_written_out() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 6, 4)
    state = CrossAttention(heads=8).state(student, teacher, 10).eval()  # four heads of one channel
    (projector, _) = state
    assert projector.attend.num_heads == 4
    found = projector(student)
    held = projector.enter(student.flatten(2).transpose(1, 2)) + projector.places
    attend = projector.attend
    starts = attend.in_proj_bias.chunk(3)
    q = projector.queries @ attend.q_proj_weight.T + starts[0]
    k, v = held @ attend.k_proj_weight.T + starts[1], held @ attend.v_proj_weight.T + starts[2]
    heads = []
    for channel in range(4):  # one channel a head, so the scores are products of numbers
        scores = q[None, :, None, channel] * k[:, None, :, channel] / math.sqrt(1)
        heads.append((softmax(scores, 2) * v[:, None, :, channel]).sum(2))
    expected = projector.leave(attend.out_proj(torch.stack(heads, 2)))
    torch.testing.assert_close(found, expected)
    assert found.shape == teacher.shape


def test_neighbours_of_a_group_share_a_linear_layer() -> None:
    """A 4 × 4 grid in groups of 2 × 2, from a map of 8 × 8 averaged down; and a 3 × 5 one, whose last groups are smaller."""
    torch.manual_seed(0)
    loss = CrossAttention(by="groups", neighbourhood=2)
    for (height, width), columns in (((4, 4), 2), ((3, 5), 3)):
        student, teacher = torch.randn(2, 3, 2 * height, 2 * width), torch.randn(2, 4, height, width)
        state = loss.state(student, teacher, 10)
        assert len(state.layers) == math.ceil(height / 2) * math.ceil(width / 2)
        error = 0.0
        for row in range(height):
            for column in range(width):
                pixel = student[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((2, 3))
                layer = state.layers[row // 2 * columns + column // 2]
                error += (layer(pixel) - teacher[:, :, row, column]).square().mean().item() / (height * width)
        assert loss(student, teacher, state=state).item() == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 6), (2, 9, 6), (2, 6, 3, 3)])
def test_any_features_teach_any_other(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 4, 5, 5, requires_grad=True)
    teacher = torch.randn(shape)
    loss = CrossAttention()
    loss(student, teacher, state=loss.state(student, teacher, 10)).backward()
    assert student.grad.abs().sum() > 0


def test_groups_are_of_maps_only() -> None:
    loss = CrossAttention(student="block", teacher="layer", by="groups")
    with pytest.raises(UserError, match=r'"block" gives \[2, 9, 6\], "layer" gives .* groups are of maps'):
        loss.state(torch.zeros(2, 9, 6), torch.zeros(2, 6, 3, 3), 10)
