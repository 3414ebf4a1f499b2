"""Relations of tokens: by hand, against loops, and shapes that do not fit."""

import math

import numpy as np
import pytest
import torch

from edgekd.errors import UserError
from edgekd.losses.attention_relations import AttentionRelations


def test_a_number_worked_out_by_hand() -> None:
    """Two tokens, one channel, one head. Student 0, 0: both rows even. Teacher 0, √log 3: the rows 1/2, 1/2 and 1/4, 3/4."""
    teacher = torch.tensor([[[0.0], [math.sqrt(math.log(3))]]])
    expected = (0 + 0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2
    assert AttentionRelations(heads=1)(torch.zeros(1, 2, 1), teacher).item() == pytest.approx(expected, rel=1e-5)


def test_against_loops_over_heads_and_tokens() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 5, 12))

    def relation(x: np.ndarray, head: int, token: int) -> np.ndarray:
        part = x[:, head * x.shape[1] // 3 : (head + 1) * x.shape[1] // 3]
        e = np.exp([part[token] @ other / math.sqrt(part.shape[1]) for other in part])
        return e / e.sum()

    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        for head in range(3):
            for token in range(5):
                r, q = relation(t, head, token), relation(s, head, token)
                total += (r * np.log(r / q)).sum()
    found = AttentionRelations(heads=3)(torch.from_numpy(student), torch.from_numpy(teacher)).item()
    assert found == pytest.approx(total / (2 * 3 * 5), rel=1e-9)


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        ((2, 3, 4, 4), (2, 5, 8), r'the student\'s "q" gives \[2, 3, 4, 4\]'),
        ((2, 5, 8), (2, 6, 8), r'the teacher\'s "query" gives \[2, 6, 8\]'),
        ((2, 5, 8), (2, 5, 10), '10 channels of the teacher\'s "query" make no 4 heads'),
    ],
)
def test_shapes_that_do_not_fit_are_said(student: tuple[int, ...], teacher: tuple[int, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        AttentionRelations(student="q", teacher="query")(torch.zeros(student), torch.zeros(teacher))
