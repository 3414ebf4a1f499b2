"""DisWOT's similarities against numbers worked out by hand, and against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_data, tiny_student
from torch import nn
from torch.nn.functional import cross_entropy

from edgekd.errors import UserError
from edgekd.search.similarity import (
    DRAWS,
    Seen,
    alike,
    apart,
    relation,
    score,
    semantic,
    students_view,
    suits,
    teachers_view,
)
from edgekd.teachers.module import Module
from edgekd.training.features import capture


def test_alike_is_the_gram_matrix_with_rows_of_length_one() -> None:
    """Rows (3, 4) and (0, 5): G Gᵀ = [[25, 20], [20, 25]], each row of length √1025 = 32.0156."""
    long = math.sqrt(1025)
    expected = torch.tensor([[25 / long, 20 / long], [20 / long, 25 / long]])
    torch.testing.assert_close(alike(torch.tensor([[3.0, 4.0], [0.0, 5.0]])), expected)
    torch.testing.assert_close(alike(torch.tensor([[6.0, 8.0], [0.0, 10.0]])), expected)  # whatever the scale
    assert apart(expected, torch.eye(2)) == pytest.approx(((25 / long - 1) ** 2 + (20 / long) ** 2) / 2)


def test_relation_compares_samples_over_all_of_their_features() -> None:
    maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]], [[[0.0, 1.0]], [[0.0, 0.0]]], [[[1.0, 1.0]], [[0.0, 0.0]]]])
    found = relation(Seen(torch.zeros(3, 2), maps))  # samples e1, e2 and e1 + e2
    rows = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 2.0]])
    torch.testing.assert_close(found, rows / rows.norm(dim=1, keepdim=True))


def test_semantic_is_the_gradient_of_the_classifiers_weights() -> None:
    """Of a network that ends in average pooling and a linear layer, by autograd."""
    network, x, y = tiny_student(8), tiny_data().train[0][:12], tiny_data().train[1][:12]
    network.train()
    with capture(network, ["down"], "student") as caught:
        logits = network(x)
    cross_entropy(logits, y).backward()
    expected = alike(network.head.weight.grad)
    found = semantic(Seen(logits.detach(), caught["down"].detach()), y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_network_is_most_like_itself_and_widths_may_differ() -> None:
    x, y = (part[:32] for part in tiny_data().train)
    teacher = students_view(tiny_student(16, 1), x)
    assert score(teacher, teacher, y) == 0.0
    other = students_view(tiny_student(4, 2), x)
    assert teacher.features.shape[1] == 32 and other.features.shape[1] == 8
    assert score(teacher, other, y) < 0.0
    by_hand = apart(semantic(teacher, y), semantic(other, y)) + apart(relation(teacher), relation(other))
    assert score(teacher, other, y) == pytest.approx(-by_hand)


def test_a_score_is_the_mean_over_drawings_and_the_same_each_time() -> None:
    x, y = (part[:32] for part in tiny_data().train)
    teacher = teachers_view(Module(tiny_student(16, 7, trained=True)), x)
    seen: list[int] = []

    def make(draw: int) -> nn.Module:
        seen.append(draw)
        return tiny_student(8, draw)

    found = suits(teacher, make, x, y)
    assert seen == list(range(DRAWS)) and found == suits(teacher, make, x, y)
    assert found == pytest.approx(
        sum(score(teacher, students_view(tiny_student(8, d), x), y) for d in range(DRAWS)) / DRAWS
    )
    with pytest.raises(UserError, match=r"its outputs are \[32, 3\], the teacher's \[32, 4\]"):
        suits(teacher, lambda draw: nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), x, y)
