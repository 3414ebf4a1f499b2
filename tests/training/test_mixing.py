"""Mixed samples: what is in them, what they are called, and how a student learns from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import noisy, tiny_context, tiny_data, tiny_saved
from torch import nn

from edgekd.errors import UserError
from edgekd.stages.distill import Distill
from edgekd.teachers.function import Function
from edgekd.teachers.module import Module
from edgekd.training.mixing import mixed
from edgekd.training.projection import projected

# Image i is all i; its class is i % 3.
COUNT = 40
IMAGES = torch.arange(COUNT, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 2, 8, 6).contiguous()
TARGETS = torch.arange(COUNT) % 3


def nobody() -> Module:
    raise AssertionError("the teacher was asked")


def changed(kind: str, share: float = 0.5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The inputs and targets of a mixed split, and which samples were chosen for it."""
    torch.manual_seed(7)
    inputs, targets = mixed(kind, IMAGES, TARGETS, share, 3, nobody)
    assert torch.equal(IMAGES[:, 0, 0, 0], torch.arange(COUNT, dtype=torch.float32))  # what was given is as it was
    chosen = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))[: round(share * COUNT)]
    return inputs, targets, chosen


def test_mixup_blends_two_samples_and_knows_its_label_where_both_have_it() -> None:
    inputs, targets, chosen = changed("mixup")
    rest = torch.ones(COUNT, dtype=torch.bool)
    rest[chosen] = False
    assert torch.equal(inputs[rest], IMAGES[rest]) and torch.equal(targets[rest], TARGETS[rest])
    generator = torch.Generator().manual_seed(3)
    torch.randperm(COUNT, generator=generator)
    partner, kept = torch.randint(COUNT, (20,), generator=generator), torch.rand(20, generator=generator)
    torch.testing.assert_close(inputs[chosen, 1, 3, 2], kept * chosen + (1 - kept) * partner)
    assert inputs[chosen].flatten(1).std(1).max() < 1e-5  # blended alike everywhere
    expected = [c % 3 if c % 3 == p % 3 else -1 for c, p in zip(chosen.tolist(), partner.tolist(), strict=True)]
    assert targets[chosen].tolist() == expected
    assert -1 in expected and max(expected) > -1


def test_cutmix_pastes_one_box_and_numbers_follow_its_area() -> None:
    inputs, targets, chosen = changed("cutmix")
    areas = []
    for i in chosen.tolist():
        pasted = inputs[i, 0] != i
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns[None])  # a box
        assert int((rows[1:] != rows[:-1]).sum()) <= 2  # in one piece
        assert len(inputs[i][:, pasted].unique()) <= 1  # of one other image
        areas.append(float(pasted.float().mean()))
        if targets[i] >= 0:
            assert targets[i] == i % 3
    assert 0.1 < sum(areas) / len(areas) < 0.7
    numbers = mixed("cutmix", IMAGES, torch.arange(COUNT, dtype=torch.float32), 0.5, 3, nobody)[1]
    torch.testing.assert_close(numbers, inputs[:, 0].mean((1, 2)))  # image i is all i, and so is its target


def test_selfmix_stays_within_the_image_and_keeps_its_label() -> None:
    torch.manual_seed(0)
    images = torch.randperm(COUNT * 96).float().view(COUNT, 2, 8, 6)
    inputs, targets = mixed("selfmix", images, TARGETS, 1.0, 0, nobody)
    assert torch.equal(targets, TARGETS)
    assert not torch.equal(inputs, images)
    for before, after in zip(images, inputs, strict=True):
        for channel in (0, 1):
            assert set(after[channel].flatten().tolist()) <= set(before[channel].flatten().tolist())


def test_the_same_seed_mixes_alike_and_none_mixes_nothing() -> None:
    first, same, other = (mixed("mixup", IMAGES, TARGETS, 0.3, seed, nobody)[0] for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert mixed("none", IMAGES, TARGETS, 0.3, 1, nobody)[0] is IMAGES


def test_boxes_need_images() -> None:
    with pytest.raises(UserError, match=r'mix = "cutmix" pastes boxes, and the inputs are \[5\]'):
        mixed("cutmix", torch.zeros(4, 5), TARGETS[:4], 0.5, 0, nobody)
    assert mixed("mixup", torch.zeros(4, 5), TARGETS[:4], 0.5, 0, nobody)[0].shape == (4, 5)


CIRCLE = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.0, -3.0]])
"""Tokens by angle: 0°, 37°, 53°, 90°, 180°, and the padding."""


def test_between_two_tokens_is_the_one_that_is_nearest_to_what_lies_between() -> None:
    """λ (1, 0) + (1 − λ)(0, 1) has the tangent (1 − λ) / λ: of an angle below 18.4°, 45° and 71.6° it is token 0, 1 and 2."""
    ours, theirs = torch.zeros(400, 3, dtype=torch.int32), torch.full((400, 3), 3, dtype=torch.int32)
    ours[:, 2] = 5  # a text that ends sooner
    found, kept = projected(ours, theirs, CIRCLE, 5, torch.Generator().manual_seed(0))
    weight = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    angle = torch.atan2(1 - weight, weight).rad2deg()
    expected = (angle > 18.435).int() + (angle > 45).int() + (angle > 71.565).int()
    expected[:, 2] = 5
    assert found.dtype == torch.int32
    assert torch.equal(found, expected) and len(found.unique()) == 5
    torch.testing.assert_close(kept, (weight[:, 0] + weight[:, 1] + 1) / 3)
    same, whole = projected(ours, ours, CIRCLE, 5, torch.Generator().manual_seed(0))
    assert torch.equal(same, ours) and whole.eq(1).all()


class Reader(nn.Module):
    """A teacher of texts: it has an embedding of places too."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.tokens = nn.Embedding(6, 2), nn.Embedding.from_pretrained(CIRCLE)
        self.head = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.tokens(x) + self.places(torch.arange(x.shape[1]))).mean(1))


def test_texts_are_mixed_in_the_teachers_embedding() -> None:
    texts = torch.randint(5, (COUNT, 6), generator=torch.Generator().manual_seed(1))
    texts[:, -1] = 5
    asked: list[int] = []

    def teacher() -> Module:
        asked.append(1)
        return Module(Reader())

    inputs, targets = mixed("project", texts, TARGETS, 0.5, 3, teacher)
    differing = (inputs != texts).any(1)
    chosen = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))[:20]
    assert asked == [1]
    assert set(differing.nonzero().flatten().tolist()) <= set(chosen.tolist()) and differing.sum() > 10
    assert bool((inputs[:, -1] == 5).all()) and int(inputs.max()) <= 5
    assert set(targets[chosen].tolist()) <= {-1, 0, 1, 2} and -1 in targets[chosen]
    rest = torch.ones(COUNT, dtype=torch.bool)
    rest[chosen] = False
    assert torch.equal(targets[rest], TARGETS[rest])


def test_what_is_no_text_or_has_no_embedding_is_said() -> None:
    texts = torch.randint(5, (4, 6))
    with pytest.raises(
        UserError, match=r'mix = "project" makes other tokens, and the inputs are \[2, 8, 6\], torch.float32'
    ):
        mixed("project", IMAGES, TARGETS, 0.5, 0, nobody)
    with pytest.raises(
        UserError, match='mix = "mixup" blends numbers, and the inputs are torch.int64\nhint: mix = "project"'
    ):
        mixed("mixup", texts, TARGETS[:4], 0.5, 0, nobody)
    with pytest.raises(UserError, match="a Function gives logits only"):
        mixed("project", texts, TARGETS[:4], 0.5, 0, lambda: Function(lambda x: x))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    with pytest.raises(UserError, match=r"no embedding of the teacher reads the inputs \[2, 6\], torch.float32"):
        Module(plain).embeddings(torch.zeros(2, 6))


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "selfmix"])
def test_a_student_learns_from_views_that_the_teacher_saw(tmp_path: Path, kind: str) -> None:
    """The teacher is asked for each view once, mixed as the student sees it, and not for the plain ones."""
    asked: list[tuple[str, torch.Tensor]] = []
    context = tiny_context(tmp_path, data=replace(tiny_data(), augment=noisy))
    plain = context.teacher_logits
    context = replace(context, teacher_logits=lambda name, make: (asked.append((name, make())), plain(name, make))[1])
    losses = ({"use": "cross_entropy", "weight": 0.5}, {"use": "kl", "temperature": 2.0})
    stage = Distill(losses=losses, epochs=3, batch=64, lr=2e-2, views=2, mix=kind, mix_share=0.25)
    (tmp_path / "out").mkdir()
    facts = stage.run(tiny_saved(tmp_path / "in"), context, tmp_path / "out")
    assert facts["epochs"][-1]["loss"] < facts["epochs"][0]["loss"]
    assert [name for name, _ in asked] == [f"train view {n} seed 0 {kind} 0.25" for n in (0, 1, 0)]
    assert torch.equal(asked[0][1], asked[2][1]) and not torch.equal(asked[0][1], asked[1][1])


def test_mixtures_without_a_teacher_are_refused(tmp_path: Path) -> None:
    stage = Distill(losses=({"use": "cross_entropy"},), epochs=1, mix="mixup")
    with pytest.raises(UserError, match='distill: mix = "mixup" makes samples that no label is for') as caught:
        stage.run(tiny_saved(tmp_path / "in"), tiny_context(tmp_path), tmp_path / "out")
    assert "a loss that asks a teacher" in caught.value.hint


@pytest.mark.parametrize("hears", [{"use": "teacher_dropping"}, {"use": "kl", "from": "peer"}], ids=["members", "peer"])
def test_whoever_else_says_what_a_mixture_is_will_do(tmp_path: Path, hears: dict[str, Any]) -> None:
    stage = Distill(losses=({"use": "cross_entropy"}, hears), epochs=1, batch=128, mix="mixup")
    (tmp_path / "out").mkdir()
    facts = stage.run(tiny_saved(tmp_path / "in"), tiny_context(tmp_path), tmp_path / "out")
    assert facts["epochs"][0]["terms"][hears["use"]] > 0
