"""Local structure: against loops, which neighbours are chosen, and that it can be learned."""

import pytest
import torch
from torch.nn.functional import softmax

from edgekd.errors import UserError
from edgekd.losses.local_structure import LocalStructure, _edges


def test_edges_are_neighbours_with_their_centres() -> None:
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    found = _edges(x, torch.tensor([[2, 0]]), torch.tensor([[[2, 1], [0, 1]]]))
    assert found.tolist() == [[[[3, 3], [2, 3]], [[1, 1], [2, 1]]]]


@torch.no_grad()
def test_against_loops() -> None:
    """The two highest of six positions and the two nearest of each, batch norm with its first statistics."""
    torch.manual_seed(0)
    loss = LocalStructure(points=2, neighbours=2, width=4, temperature=0.5)
    student, teacher = torch.randn(2, 3, 2, 3), torch.randn(2, 5, 2, 3)
    state = loss.state(student, teacher, 10).eval()
    found = loss(student, teacher, state=state).item()
    expected = 0.0
    for s, t in zip(student.flatten(2).mT, teacher.flatten(2).mT, strict=True):
        heights = t.max(1).values
        points = sorted(range(6), key=lambda i: -float(heights[i]))[:2]
        weights = 2 * softmax(heights[points] / 0.5, 0)
        for point, weight in zip(points, weights, strict=True):
            near = sorted(range(6), key=lambda j: float((t[j] - t[point]).norm()))[:2]
            assert near[0] == point
            for j in near:
                edges = []
                for layer, x in zip(state, (s, t), strict=True):
                    made = layer.linear.weight @ torch.cat([x[j], x[point]]) / (1 + 1e-5) ** 0.5
                    edges.append(made.relu())
                expected += float(weight * (edges[0] - edges[1]).square().mean()) / 2 / 2 / 2
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_student_can_follow_and_the_teacher_stays() -> None:
    torch.manual_seed(0)
    loss = LocalStructure(points=8, neighbours=4, width=8)
    student, teacher = torch.randn(4, 6, 5, 5, requires_grad=True), torch.randn(4, 6, 5, 5)
    state = loss.state(student, teacher, 10).train()
    optimizer = torch.optim.Adam([student, *state.parameters()], lr=0.02)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(student, teacher, state=state)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] / 3
    with torch.no_grad():
        made = state[1](
            _edges(
                teacher.flatten(2).mT, torch.arange(25).expand(4, 25), torch.arange(25)[None, :, None].expand(4, 25, 1)
            )
        )
    assert made.std() > 0.1  # not by saying nothing: batch norm keeps the layer's outputs apart


def test_vectors_have_no_neighbours() -> None:
    loss, x = LocalStructure(student="flat"), torch.zeros(2, 3)
    with pytest.raises(UserError, match=r'local_structure: "flat" gives \[2, 3\]: one position has no neighbours'):
        loss(x, x, state=loss.state(x, x, 10))
