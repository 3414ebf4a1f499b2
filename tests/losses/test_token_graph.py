"""The graph of tokens: each of its three parts by hand, the draw of nodes, and whom it refuses."""

import math

import pytest
import torch
from torch import nn

from edgekd.errors import UserError
from edgekd.losses.token_graph import TokenGraph


def part(name: str, student: torch.Tensor, teacher: torch.Tensor, progress: float = 0.0, **fields: float) -> float:
    """One part alone, with W the identity."""
    weights = {"inner": 0.0, "local": 0.0, "contrast": 0.0, name: 1.0}
    loss = TokenGraph(**weights, **fields)  # type: ignore[arg-type]
    return float(loss(student, teacher, progress=progress, state=nn.Identity()))


def test_tokens_of_one_image_by_hand() -> None:
    """Student (0), (0): all relations 1/2. Teacher (1), (−1): products ±1, so e / (e + 1/e) to itself."""
    student, teacher = torch.zeros(1, 2, 1), torch.tensor([[[1.0], [-1.0]]])
    own = math.e / (math.e + 1 / math.e)
    assert part("inner", student, teacher) == pytest.approx((own - 0.5) ** 2, rel=1e-6)


def test_neighbours_by_hand() -> None:
    """Two tokens, each the other's neighbour. Student: the same direction, A = 1. Teacher: opposite, |a − b|² = 4, A = e⁻⁴."""
    student, teacher = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]]), torch.tensor([[[0.0, 2.0], [0.0, -1.0]]])
    q, p = (math.exp(a) / (1 + math.exp(a)) for a in (1, math.exp(-4)))  # of the other; of itself A is 0
    expected = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    assert part("local", student, teacher, spread=0.5) == pytest.approx(expected, rel=1e-5)


def test_far_tokens_count_as_none() -> None:
    """Three directions, 0°, 10° and 90°: with one neighbour each, the first two have each other and the third the second."""
    angles = torch.tensor([0.0, 10.0, 90.0]).deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], 1)
    graph = TokenGraph(neighbours=1, spread=0.5)._graph(x)

    def edge(degrees: float) -> float:
        return math.exp(-(2 - 2 * math.cos(math.radians(degrees))))

    expected = torch.tensor([[0.0, edge(10), 0.0], [edge(10), 0.0, 0.0], [0.0, edge(80), 0.0]])
    torch.testing.assert_close(graph, expected)


def test_who_is_who_by_hand_and_colder_at_the_end() -> None:
    tokens = torch.eye(2)[None]
    for progress, heat in ((0.0, 0.5), (0.5, 0.3), (1.0, 0.1)):
        found = part("contrast", tokens, tokens, progress, temperature=0.5, coldest=0.1)
        assert found == pytest.approx(math.log(1 + math.exp(-1 / heat)), rel=1e-3)


def test_a_map_has_a_token_for_each_position_and_large_batches_are_drawn_from() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 5, 6, 6)
    loss = TokenGraph(nodes=8)
    state = loss.state(student, teacher, 1)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(loss(student, teacher, progress=0.0, state=state).item())
    assert found[0] == found[1] != found[2]
    tokens = student.flatten(2).transpose(1, 2)
    pooled = nn.functional.avg_pool2d(teacher, 2).flatten(2).transpose(1, 2)
    whole = TokenGraph()
    torch.testing.assert_close(
        whole(student, teacher, progress=0.0, state=state), whole(tokens, pooled, progress=0.0, state=state)
    )


@pytest.mark.parametrize("shape", [(2, 4), (2, 7, 4)])
def test_other_features_are_refused(shape: tuple[int, ...]) -> None:
    loss = TokenGraph(student="a", teacher="b")
    with pytest.raises(UserError, match='token_graph: the student\'s "a" gives') as caught:
        loss.state(torch.zeros(shape), torch.zeros(2, 9, 4), 1)
    assert "of as many tokens" in caught.value.hint
