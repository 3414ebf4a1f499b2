"""Which blocks a network has, and what could stand for each of them."""

from __future__ import annotations

import copy

import pytest
import torch
from blocks.networks import Encoder, Mobile, encoder
from tiny import tiny_student
from torch import nn

from edgekd.blocks.alternatives import alternatives
from edgekd.blocks.calls import record
from edgekd.blocks.find import find
from edgekd.errors import UserError
from edgekd.student import replay

IMAGES = torch.randn(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """Looks at an image and at its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_student()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.inner(x.flip(3))


def forms(network: nn.Module, names: tuple[str, ...] = ()) -> dict[str, str]:
    return {block.name: block.form for block in find(network.eval(), IMAGES, names)}


def names_of(network: nn.Module, multiple: int = 1) -> dict[str, list[str]]:
    example = torch.zeros(1, 1, 12, 12)
    found = {}
    for block in find(network.eval(), IMAGES):
        of = alternatives(network, block, record(network, block.host, IMAGES), example, multiple)
        found[block.name] = [one.name for one in of]
        for one in of:  # each of them runs
            edited = copy.deepcopy(network)
            replay(edited, one.edits)
            assert edited.eval()(IMAGES).shape == (6, 4)
    return found


def test_blocks_of_images() -> None:
    assert forms(tiny_student()) == {"stem": "image", "block": "image", "down": "image"}
    assert forms(Mobile()) == {"features.0": "image", "features.1": "image", "features.2.layers": "image"}
    assert forms(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(256, 4))) == {
        "0": "image",
        "2": "image",
    }
    assert forms(Twice()) == {"inner.stem": "image", "inner.block": "image", "inner.down": "image"}


def test_blocks_of_tokens() -> None:
    assert forms(encoder()) == {
        "layers.0.attention": "attention",
        "layers.0.mlp": "feed-forward",
        "layers.1.attention": "attention",
        "layers.1.first": "pair",
    }
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert forms(Encoder(layer)) == {"layers.0.self_attn": "attention", "layers.0.linear1": "pair"}


def test_a_record_has_a_row_a_sample_whatever_is_given() -> None:
    network = encoder()
    calls = record(network, "layers.1.attention", IMAGES)
    assert calls.pair and calls.output.shape == (6, 12, 16)
    assert calls.rows[:3] == (True, True, True) and calls.leaves[0] is calls.leaves[2]
    host = network.get_submodule("layers.1.attention")
    assert torch.allclose(calls.call(host, torch.tensor([4, 1])), calls.output[[4, 1]], atol=1e-6)
    assert record(Twice().eval(), "inner.block", IMAGES).output.shape == (12, 8, 12, 12)


def test_alternatives_fit_and_compute_less() -> None:
    widths = ["1/2 of the width", "1/4 of the width"]
    kinds = ["separable", "3 × 3 convolution", "1 × 1 convolution"]
    assert names_of(tiny_student()) == {
        "stem": ["separable", "1 × 1 convolution"],
        "block": ["dropped", *kinds, *widths],
        "down": ["separable", "1 × 1 convolution"],
    }
    assert names_of(tiny_student(), multiple=8)["block"] == ["dropped", *kinds], "8 channels are no two multiples of 8"
    heads = ["1/2 of the heads", "1/4 of the heads"]
    assert names_of(encoder()) == {
        "layers.0.attention": ["dropped", "linear", *heads],
        "layers.0.mlp": ["dropped", "linear", *widths, "1/8 of the width"],
        "layers.1.attention": ["dropped", "linear", heads[0]],
        "layers.1.first": ["dropped", *widths, "1/8 of the width"],
    }


def test_none_is_what_came_in_or_nothing_whichever_is_nearer() -> None:
    network = encoder()
    for block in find(network, IMAGES):
        calls = record(network, block.host, IMAGES)
        dropped = alternatives(network, block, calls, IMAGES[:1], 1)[0]
        assert [one["use"] for one in dropped.edits[0]["blocks"].values()][-1] == "nothing", "sums are around these"
    network = tiny_student().eval()
    (block,) = find(network, IMAGES, ["block"])
    one = alternatives(network, block, record(network, "block", IMAGES), IMAGES[:1], 1)[0]
    assert one.edits[0]["blocks"]["block"]["use"] == "same", "the sum is within"


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (("blokc",), 'blocks: the student has no module "blokc"', 'did you mean "block"'),
        (("head",), 'blocks: "head" is no block', "looked for modules that make one tensor of one"),
        (("block", "block.conv1"), 'blocks: "block.conv1" lies within "block"', "name one"),
    ],
)
def test_names_that_are_no_blocks(names: tuple[str, ...], message: str, hint: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find(tiny_student().eval(), IMAGES, names)
    assert hint in caught.value.hint


def test_a_network_without_blocks_says_what_was_looked_for() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).eval()
    with pytest.raises(UserError, match="no block that could be replaced") as caught:
        find(flat, IMAGES)
    assert "images of images" in caught.value.hint and 'blocks = ["…"]' in caught.value.hint
    assert forms(tiny_student(), ("block.conv1",)) == {"block.conv1": "image"}
    assert forms(encoder(), ("layers.1.first",)) == {"layers.1.first": "pair"}
